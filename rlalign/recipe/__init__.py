"""Recipes: one YAML file that says which agent is trained on what, for how long and how."""

from __future__ import annotations

from rlalign.recipe.loading import (
    dump_recipe,
    list_recipes,
    load_recipe,
    parse_recipe,
    recipe_path,
)
from rlalign.recipe.schema import (
    Checkpointing,
    Evaluation,
    Logging,
    Offline,
    Online,
    Recipe,
)
from rlalign.recipe.settings import agent_class, agent_settings, online_settings

__all__ = [
    "Checkpointing",
    "Evaluation",
    "Logging",
    "Offline",
    "Online",
    "Recipe",
    "agent_class",
    "agent_settings",
    "dump_recipe",
    "list_recipes",
    "load_recipe",
    "online_settings",
    "parse_recipe",
    "recipe_path",
]
