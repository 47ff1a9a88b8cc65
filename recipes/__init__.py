"""Recipes: YAML files, one folder per method."""
