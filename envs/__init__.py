"""Environments: one file per kind."""
