"""Recipes: one YAML file says which agent or trainer learns from what, for how long and how."""

from __future__ import annotations

from rlalign.recipe.loading import (
    AnyRecipe,
    dump_recipe,
    list_recipes,
    load_any_recipe,
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
from rlalign.recipe.settings import (
    agent_class,
    agent_settings,
    check_recipe,
    filled,
    online_settings,
)
from rlalign.recipe.trainer_schema import TrainerRecipe

__all__ = [
    "AnyRecipe",
    "Checkpointing",
    "Evaluation",
    "Logging",
    "Offline",
    "Online",
    "Recipe",
    "TrainerRecipe",
    "agent_class",
    "agent_settings",
    "check_recipe",
    "dump_recipe",
    "filled",
    "list_recipes",
    "load_any_recipe",
    "load_recipe",
    "online_settings",
    "parse_recipe",
    "recipe_path",
]
