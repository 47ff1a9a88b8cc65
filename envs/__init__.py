"""Environments: making them by name, stepping many of them, and flattening what they observe."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlalign.envs.make import make_environment as make_environment
    from rlalign.envs.vector import Environments as Environments
    from rlalign.envs.vector import as_environments as as_environments

_HOMES = {
    "make_environment": "rlalign.envs.make",
    "Environments": "rlalign.envs.vector",
    "as_environments": "rlalign.envs.vector",
}

__all__ = ["Environments", "as_environments", "make_environment"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
