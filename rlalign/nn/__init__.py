"""Networks: stacked multi-layer perceptrons, distributions, policies and critics."""
