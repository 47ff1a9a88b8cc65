"""One sentence for a recipe that does not fit: where it is written, the key, what was expected."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rlalign.setting_hints import OTHER_NAMES
from rlalign.suggestions import did_you_mean, one_of

COMMAND_LINE = "the command line"
Origins = dict[tuple[str, ...], str]
"""Which file (or the command line) wrote a key last."""


def written_in(key: str, source: str, overrides: Sequence[str]) -> str:
    """Say who wrote a dotted key last: the command line if it overrides it, else the recipe."""
    keys = (override.partition("=")[0].strip() for override in overrides)
    overridden = any(key == one or key.startswith(f"{one}.") for one in keys)
    return COMMAND_LINE if overridden else source


def sentence(error: ValidationError, model: type[BaseModel], source: str, origins: Origins) -> str:
    """The first of the errors as one sentence that names file, key, value and expectation."""
    details = error.errors(include_url=False)
    # An unknown key usually explains a missing one, so it is told first.
    first = min(details, key=lambda one: one["type"] != "extra_forbidden")
    location = tuple(str(part) for part in first["loc"])
    where = _origin(location, origins) or source
    if not location:
        return f"{where}: the recipe {_reason(first)}"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {'.'.join(location)!r}{_hint(location, model)}"
    key = ".".join(location)
    if first["type"] == "missing":
        return f"{where}: the key {key!r} is missing"
    return f"{where}: {key} must be {_expectation(first)}, got {first['input']!r}"


def _origin(location: Sequence[str], origins: Origins) -> str | None:
    for length in range(len(location), 0, -1):
        found = origins.get(tuple(location[:length]))
        if found is not None:
            return found
    return None


def _reason(error: ErrorDetails) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def _expectation(error: ErrorDetails) -> str:
    """What was expected, as the end of 'KEY must be ...'."""
    context: dict[str, Any] = error.get("ctx", {})
    plain = {
        "greater_than_equal": "at least {ge:g}",
        "greater_than": "above {gt:g}",
        "less_than_equal": "at most {le:g}",
        "finite_number": "a finite number",
        "string_type": "text",
        "bool_type": "true or false",
        "dict_type": "a mapping of names to values",
        "model_type": "a mapping of keys to values",
        "string_too_short": "a name",
        "string_pattern_mismatch": "'cpu', 'cuda' or 'cuda:N'",
        "literal_error": "{expected}",
    }
    if error["type"] in plain:
        return plain[error["type"]].format(**context)
    return _reason(error).removeprefix("expected ")


def _hint(location: Sequence[str], model: type[BaseModel]) -> str:
    """The nearest name beside the unknown key, else the same name in another section."""
    fields = list(_fields_at(location[:-1], model))
    meant = [name for name in OTHER_NAMES.get(location[-1], ()) if name in fields]
    near = one_of(meant) or did_you_mean(location[-1], fields)
    if near:
        return near
    elsewhere = [name for name in _dotted(model) if name.split(".")[-1] == location[-1]]
    if elsewhere:
        return one_of(elsewhere)
    if len(location) == 1:
        whose, section = ("agent", "settings") if "agent" in fields else ("trainer", "training")
        return (
            f"; known keys are {', '.join(fields)} "
            f"(the {whose}'s settings are written {section}.{location[0]})"
        )
    return f"; known keys are {', '.join(fields)}"


def _fields_at(path: Sequence[str], model: type[BaseModel]) -> Iterable[str]:
    for part in path:
        section = _section(model, part)
        if section is None:
            return ()
        model = section
    return model.model_fields


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    kind = field.annotation if field is not None else None
    # A section that may be left out is annotated `Section | None`.
    options = [kind, *typing.get_args(kind)]
    return next((k for k in options if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _dotted(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name in model.model_fields:
        yield prefix + name
        section = _section(model, name)
        if section is not None:
            yield from _dotted(section, f"{prefix}{name}.")
