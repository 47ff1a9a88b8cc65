"""Datasets of transitions: D4RL and Minari files, and data collected on this machine."""
