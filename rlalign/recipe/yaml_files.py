"""YAML as recipes use it: `3e-4` and `08` are numbers, a key written twice is an error."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from rlalign.errors import RecipeError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's numbers, no dates, and no silent duplicates."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader would take for a number."""


def _integer(_: _Loader, node: yaml.ScalarNode) -> int:
    text = str(node.value).replace("_", "")
    return int(text, 0) if text.lstrip("+-")[:2] in ("0o", "0x") else int(text)


# PyYAML follows YAML 1.1, where 010 is eight, 1:1 is sixty-one, and a float needs a dot and a
# signed exponent: 3e-4 would be text. It has dates too, which no recipe holds and JSON cannot.
_INTEGER, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_DATE = "tag:yaml.org,2002:timestamp"
_NUMBERS = {
    _INTEGER: re.compile(r"^[-+]?(0o[0-7_]+|0x[0-9a-fA-F_]+|\d[\d_]*)$"),
    _FLOAT: re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
}
for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INTEGER, _DATE)]
        for first, resolvers in _kind.yaml_implicit_resolvers.items()
    }
    for _tag, _pattern in _NUMBERS.items():
        _kind.add_implicit_resolver(_tag, _pattern, list("-+0123456789"))
_Loader.add_constructor(_INTEGER, _integer)


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {what}" if mark is not None else str(what)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping; raises `RecipeError` naming the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file ({error.reason})") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        document = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        problem = _problem(error) if isinstance(error, yaml.YAMLError) else str(error)
        raise RecipeError(f"{path}: not valid YAML, {problem}") from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else type(document).__name__
        raise RecipeError(f"{path}: expected `key: value` lines, found {found}")
    for key in document:
        if not isinstance(key, str):
            raise RecipeError(f"{path}: key {key!r} is not text")
    return document


def parse_value(text: str) -> Any:
    """The value of an override; raises `ValueError` when it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(_problem(error)) from None


def write_yaml(document: dict[str, Any]) -> str:
    """The mapping as YAML text in the order of its keys."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
