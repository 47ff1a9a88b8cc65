"""Find a recipe by name or path, apply `base:` and overrides, and check the result."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlalign.errors import RecipeError
from rlalign.recipe.messages import COMMAND_LINE, Origins, sentence
from rlalign.recipe.schema import Recipe
from rlalign.recipe.trainer_schema import TrainerRecipe
from rlalign.recipe.yaml_files import parse_value, read_yaml, write_yaml
from rlalign.suggestions import did_you_mean

# A document's kind is told by the key that names what is trained.
AnyRecipe = Recipe | TrainerRecipe
KINDS: Mapping[str, type[Recipe] | type[TrainerRecipe]] = {
    "agent": Recipe,
    "trainer": TrainerRecipe,
}
_SUFFIXES = (".yaml", ".yml")


def shipped_recipes() -> Path:
    """The folder of the recipes that come with rlalign."""
    return Path(str(importlib.resources.files("rlalign.recipes")))


def list_recipes() -> list[str]:
    """Names of all shipped recipes, sorted; files that start with `_` are only bases."""
    folder = shipped_recipes()
    paths = (path.relative_to(folder) for path in folder.rglob("*.yaml"))
    return sorted(
        path.with_suffix("").as_posix() for path in paths if not path.name.startswith("_")
    )


def recipe_path(name_or_path: str | Path) -> Path:
    """The file of a shipped recipe ("iql/hopper-medium-v2") or of a path.

    Raises `RecipeError` with the nearest names when there is neither.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = _shipped(str(name_or_path))
    if shipped is not None:
        return shipped
    if path.suffix not in _SUFFIXES and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    name = path.with_suffix("") if path.name else path
    hint = _nearest(name.as_posix(), list_recipes())
    raise RecipeError(f"{name_or_path}: neither a recipe file nor a shipped recipe{hint}")


def _shipped(name: str) -> Path | None:
    """The file of a shipped recipe, or of a base of shipped recipes, by its name."""
    path = Path(name)
    if path.suffix in _SUFFIXES or path.is_absolute() or ".." in path.parts:
        return None
    file = shipped_recipes() / f"{name}.yaml"
    return file if file.is_file() else None


def _nearest(name: str, names: Sequence[str]) -> str:
    return did_you_mean(name, names, most=3) or "; see `rlalign recipes`"


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read an agent's recipe; see `load_any_recipe`."""
    return _of_agent(load_any_recipe(name_or_path, overrides), str(name_or_path))


def load_any_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a recipe, apply its `base:` files and `key=value` overrides, and check it.

    `overrides` are dotted keys with YAML values: `["offline.steps=1e5", "settings.discount=0.9"]`.
    A path may also be a run directory. Raises `RecipeError`.
    """
    path = recipe_path(name_or_path)
    origins: Origins = {}
    document = _read_with_bases(path, origins, ())
    for override in overrides:
        _apply(document, override, origins)
    return _validate(document, str(path), origins)


def parse_recipe(document: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Check a recipe that is already a mapping; raises `RecipeError` naming `source`."""
    return _of_agent(_validate(dict(document), source, {}), source)


def dump_recipe(recipe: AnyRecipe) -> str:
    """The recipe as YAML with every default written out."""
    return write_yaml(recipe.to_dict())


def _of_agent(recipe: AnyRecipe, source: str) -> Recipe:
    if isinstance(recipe, TrainerRecipe):
        raise RecipeError(f"{source}: a recipe of a trainer, where one of an agent is expected")
    return recipe


def _validate(document: dict[str, Any], source: str, origins: Origins) -> AnyRecipe:
    both = [key for key in KINDS if key in document]
    if len(both) > 1:
        raise RecipeError(f"{source}: names both an agent and a trainer; a recipe has one of them")
    kind = KINDS[both[0]] if both else Recipe
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise RecipeError(sentence(error, kind, source, origins)) from None


def _read_with_bases(path: Path, origins: Origins, chain: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in chain:
        names = " -> ".join(one.name for one in (*chain, resolved))
        raise RecipeError(f"{path}: `base:` goes round in a circle ({names})")
    document = read_yaml(path)
    base = document.pop("base", None)
    merged: dict[str, Any] = {}
    if base is not None:
        merged = _read_with_bases(_base_path(path, base), origins, (*chain, resolved))
    _merge(merged, document, str(path), origins, ())
    return merged


def _base_path(path: Path, base: Any) -> Path:
    """The file that the recipe `path` builds upon: one beside it, else a shipped recipe."""
    if not isinstance(base, str):
        raise RecipeError(f"{path}: `base` must be a file or a shipped recipe, got {base!r}")
    beside = path.parent / base
    if beside.is_file():
        return beside
    shipped = _shipped(base)
    if shipped is not None:
        return shipped
    files = [file.name for file in path.parent.iterdir() if file.suffix in _SUFFIXES]
    hint = _nearest(base, [*files, *list_recipes()])
    raise RecipeError(f"{path}: its base {base!r} is neither beside it nor a shipped recipe{hint}")


def _merge(
    into: dict[str, Any],
    update: Mapping[str, Any],
    source: str,
    origins: Origins,
    prefix: tuple[str, ...],
) -> None:
    """Deep merge: mappings key by key, everything else is replaced."""
    for key, value in update.items():
        here = (*prefix, str(key))
        if isinstance(value, Mapping):
            below = into.get(key)
            merged = dict(below) if isinstance(below, Mapping) else {}
            _merge(merged, value, source, origins, here)
            into[key] = merged
        else:
            into[key] = value
        origins[here] = source


def _apply(document: dict[str, Any], override: str, origins: Origins) -> None:
    key, separator, text = override.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not separator or not all(parts):
        hint = did_you_mean(key, [name for kind in KINDS.values() for name in kind.model_fields])
        raise RecipeError(f"override {override!r} is not of the form key=value{hint}")
    try:
        value = parse_value(text)
    except ValueError as error:
        raise RecipeError(f"override {override!r}: the value is not valid YAML, {error}") from None
    nested: Any = value
    for part in reversed(parts):
        nested = {part: nested}
    _merge(document, nested, COMMAND_LINE, origins, ())
