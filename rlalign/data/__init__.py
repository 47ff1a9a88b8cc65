"""Datasets: D4RL, Minari and locally collected ones."""
