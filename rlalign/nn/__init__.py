"""Stacked networks and distributions."""
