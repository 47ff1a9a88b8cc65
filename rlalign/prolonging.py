"""What may change in a run that has begun: how much lies ahead, and how it is watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlalign.checkpoint import part
from rlalign.errors import RecipeError
from rlalign.recipe import Recipe, check_recipe, load_recipe

if TYPE_CHECKING:
    from rlalign.agent import Agent
    from rlalign.checkpoint import State
    from rlalign.rundir import RunDirectory

ALWAYS = ("evaluation", "checkpoint", "logging")


def prolonged(run: RunDirectory, changes: Sequence[str], reached: Mapping[str, int]) -> Recipe:
    """Return a run's recipe with changes to what lies ahead of it.

    Args:
        run: trained so far.
        changes: overrides such as ``online.steps=1e5``.
        reached: steps done by phase, of the phases that have begun.

    Raises:
        RecipeError: for a change that would make what was done another run: of a setting, of the
            seed, of a phase that is over, or of steps below those done; or where an environment
            is needed and the run began without one.
    """
    before = run.recipe
    after = load_recipe(run.path / "recipe.yaml", changes)
    check_recipe(after, str(run.path), changes)
    _require_environment(run, after)
    ahead = {f"{phase}.steps" for phase in ("offline", "online")}
    if "online" in reached:
        ahead.remove("offline.steps")
    for key, value in _changes(before.to_dict(), after.to_dict()).items():
        section = key.split(".")[0]
        if section in ALWAYS or (section == "online" and "online" not in reached):
            continue
        if key not in ahead:
            raise RecipeError(
                f"{run.path}: {key} cannot change in a run that has begun; what can are "
                f"{' and '.join(sorted(ahead))}, evaluation, checkpoint and logging"
            )
        if value < reached.get(section, 0):
            raise RecipeError(
                f"{run.path}: {key} must be at least {reached[section]}, which are done, "
                f"got {value}"
            )
    return after


def _require_environment(run: RunDirectory, after: Recipe) -> None:
    # Its agent was made for the dataset's sizes and bounds, its scores without a reference.
    bare = "sizes" in (run.info.get("dataset") or {})
    if bare and (after.online.steps or after.evaluation.every):
        asked = "online.steps" if after.online.steps else "evaluation.every"
        raise RecipeError(
            f"{run.path}: {asked} needs an environment, and the run began without one; train anew "
            "with `environment:` in the recipe"
        )


def phase_steps(recipe: Recipe) -> dict[str, int]:
    """Return the steps of the phases that a recipe asks for, in order."""
    steps = {"offline": recipe.offline.steps, "online": recipe.online.steps}
    return {name: count for name, count in steps.items() if count}


def steps_done(recipe: Recipe, saved: State | None) -> dict[str, int]:
    """Return the steps done by phase as of a checkpoint, of the phases that had begun."""
    if saved is None:
        return {}
    steps, name = phase_steps(recipe), saved[1]["phase_name"]
    before = list(steps)[: list(steps).index(name)]
    return {**{one: steps[one] for one in before}, name: int(part(saved, "phase")[1]["done"])}


def phases_left(recipe: Recipe, saved: State | None) -> list[str]:
    """Return the phases that are not over as of a checkpoint, in order.

    One whose last evaluation was cut short is not over either.
    """
    done = steps_done(recipe, saved)
    owing = saved[1]["phase_name"] if saved and saved[1].get("owes_evaluation") else None
    steps = phase_steps(recipe).items()
    return [name for name, count in steps if count > done.get(name, 0) or name == owing]


def require_constant_rates(agent: Agent, before: Recipe, after: Recipe, source: str) -> None:
    """Refuse other `offline.steps` where learning rates fall over them.

    The steps done would have been made at other rates, so the longer run would be none that can be
    trained from the start. Raises `RecipeError`.
    """
    scheduled = [update.loss for update in agent.updates if update.schedule != "constant"]
    if scheduled and before.offline.steps and before.offline.steps != after.offline.steps:
        raise RecipeError(
            f"{source}: offline.steps cannot change, for the learning rate of {agent.name}'s "
            f"{scheduled[0]} falls to 0 over them; train anew, or with a constant one"
        )


def _changes(before: Any, after: Any, prefix: str = "") -> dict[str, Any]:
    """Return the dotted keys whose values differ, with the values they have now."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return {} if before == after else {prefix.removesuffix("."): after}
    found: dict[str, Any] = {}
    for key in (*before, *(key for key in after if key not in before)):
        found |= _changes(before.get(key), after.get(key), f"{prefix}{key}.")
    return found
