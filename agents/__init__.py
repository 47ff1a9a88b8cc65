"""The agents: one file each, holding the networks and the losses of a paper."""
