"""A recipe's `settings:` against the settings dataclass of its agent."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from rlalign.errors import RecipeError
from rlalign.recipe.messages import suggestion
from rlalign.recipe.schema import Recipe


def agent_settings(recipe: Recipe, source: str = "recipe") -> Any:
    """The agent's frozen settings dataclass, built of the recipe's `settings:`.

    Imports the agent, hence torch. Raises `RecipeError` for an unknown agent, an unknown setting
    (with the nearest name), a value of the wrong type, and a value out of its range.
    """
    from rlalign.agents import AGENTS

    if recipe.agent not in AGENTS:
        hint = suggestion(recipe.agent, AGENTS) or f"; known agents are {', '.join(sorted(AGENTS))}"
        raise RecipeError(f"{source}: unknown agent {recipe.agent!r}{hint}")
    kind = AGENTS[recipe.agent].settings_type
    hints = get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    values = {}
    for name, value in recipe.settings.items():
        if name not in known:
            hint = suggestion(name, known) or f"; known settings are {', '.join(known)}"
            raise RecipeError(f"{source}: {recipe.agent} has no setting {name!r}{hint}")
        values[name] = _typed(f"{source}: settings.{name}", value, hints[name])
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{source}: settings of {recipe.agent}: {error}") from None


def _typed(key: str, value: Any, kind: Any) -> Any:
    """The value as the field's type; JSON's strict rules, in which a list may be a tuple."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    candidates = [value]
    if isinstance(value, float) and value.is_integer():
        candidates.append(int(value))
    for candidate in candidates:
        try:
            return adapter.validate_json(json.dumps(candidate), strict=True)
        except (ValidationError, TypeError, ValueError):
            continue
    wanted = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
    raise RecipeError(f"{key} must be of type {wanted.replace('typing.', '')}, got {value!r}")
