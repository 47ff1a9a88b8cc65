"""A recipe's agent and settings as the objects they name. Importing an agent imports torch."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlalign.errors import RecipeError, SettingsError
from rlalign.recipe.messages import written_in
from rlalign.recipe.schema import Online, Recipe
from rlalign.recipe.trainer_schema import TrainerRecipe
from rlalign.setting_hints import no_effect
from rlalign.suggestions import did_you_mean

if TYPE_CHECKING:
    from rlalign.agent import Agent
    from rlalign.settings import AgentSettings, OnlineSettings


def check_recipe(
    recipe: Recipe | TrainerRecipe, source: str = "recipe", overrides: Sequence[str] = ()
) -> None:
    """Check what a recipe says of its agent or its trainer.

    Args:
        recipe: as `load_any_recipe` read it.
        source: its file or name, for messages.
        overrides: those it was read with; a mistake in one of them is said of the command line.

    Raises `RecipeError`; `MissingPackageError` for a trainer without the extra `llm`. Warns of keys
    of `online:` that mean nothing under its `replay`.
    """
    if isinstance(recipe, TrainerRecipe):
        from rlalign.trainers.recipe_config import check_training

        check_training(recipe, source, overrides)
        return
    agent_settings(recipe, source, overrides)
    online = online_settings(recipe, source, overrides)
    given = recipe.online.model_dump(exclude={"steps"}, exclude_none=True)
    unused = online.without_effect(given) if recipe.online.steps else []
    if unused:
        where = written_in(f"online.{unused[0]}", source, overrides)
        warnings.warn(f"{where}: {no_effect(unused, online.replay)}", stacklevel=2)


def agent_class(
    recipe: Recipe, source: str = "recipe", overrides: Sequence[str] = ()
) -> type[Agent]:
    """The class the recipe's `agent:` names: one of rlalign's, or one's own, ``module:Class``.

    Raises `RecipeError`, with the nearest name where there is one.
    """
    from rlalign.agents import AGENTS

    source = written_in("agent", source, overrides)
    if ":" in recipe.agent:
        return _own_agent(recipe.agent, source)
    if recipe.agent not in AGENTS:
        known = f"; known agents are {', '.join(sorted(AGENTS))}"
        hint = did_you_mean(recipe.agent, AGENTS) or known
        raise RecipeError(f"{source}: there is no agent {recipe.agent!r}{hint}")
    return AGENTS[recipe.agent]


def _own_agent(name: str, source: str) -> type[Agent]:
    from rlalign.agent import Agent
    from rlalign.importing import module_of, reason

    where, _, attribute = name.rpartition(":")
    try:
        found = getattr(module_of(where), attribute, None)
    except Exception as error:
        raise RecipeError(
            f"{source}: agent {name}: {where} cannot be imported ({reason(error)})"
        ) from None
    if not (isinstance(found, type) and issubclass(found, Agent)):
        raise RecipeError(f"{source}: agent {name}: {where} has no agent class {attribute!r}")
    return found


def agent_settings(
    recipe: Recipe, source: str = "recipe", overrides: Sequence[str] = ()
) -> AgentSettings:
    """The agent's frozen settings, built of the recipe's `settings:`.

    Raises `RecipeError` for an unknown agent, an unknown setting (with the nearest name), a value
    of another type, and one out of its range.
    """
    from rlalign.settings import build_settings

    kind = agent_class(recipe, source, overrides)
    try:
        return build_settings(kind.settings_type, recipe.settings, kind.name)
    except SettingsError as error:
        where = written_in(f"settings.{error.setting}", source, overrides)
        raise RecipeError(f"{where}: {error}") from None


def filled(recipe: Recipe) -> Recipe:
    """The recipe with the defaults of its agent written out, but those that mean nothing in it."""
    settings = online_settings(recipe)
    unused = settings.without_effect(vars(settings))
    online = {name: value for name, value in vars(settings).items() if name not in unused}
    changes = {
        "settings": agent_settings(recipe).to_dict(),
        "online": Online(**(recipe.online.model_dump() | online)),
    }
    return recipe.model_copy(update=changes)


def online_settings(
    recipe: Recipe, source: str = "recipe", overrides: Sequence[str] = ()
) -> OnlineSettings:
    """What the recipe's `online:` says, and the agent's own defaults where it says nothing."""
    given = recipe.online.model_dump(exclude={"steps"}, exclude_none=True)
    kind = agent_class(recipe, source, overrides)
    if recipe.dataset is None and "replay" not in given:
        # Without a dataset there is nothing but interaction to draw from.
        given["replay"] = "online"
    try:
        return dataclasses.replace(kind.online_defaults, **given)
    except SettingsError as error:
        where = written_in(f"online.{error.setting}", source, overrides)
        raise RecipeError(f"{where}: {error}") from None
