"""Trainers that align language models with preferences, on TRL; imported when first used.

`rlalign.trainers.losses` needs neither TRL nor transformers.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rlalign.errors import MissingPackageError

if TYPE_CHECKING:
    from rlalign.trainers.base import PreferenceTrainer
    from rlalign.trainers.dpo import DPOConfig, DPOTrainer
    from rlalign.trainers.hypo import HyPOConfig, HyPOTrainer
    from rlalign.trainers.revision import RevisionTemplate
    from rlalign.trainers.self_revision import self_revise
    from rlalign.trainers.settings import PreferenceConfig
    from rlalign.trainers.simpo import SimPOConfig, SimPOTrainer
    from rlalign.trainers.srpo import SRPOConfig, SRPOTrainer

__all__ = [
    "TRAINERS",
    "DPOConfig",
    "DPOTrainer",
    "HyPOConfig",
    "HyPOTrainer",
    "PreferenceConfig",
    "PreferenceTrainer",
    "RevisionTemplate",
    "SRPOConfig",
    "SRPOTrainer",
    "SimPOConfig",
    "SimPOTrainer",
    "self_revise",
]

_METHODS = {"dpo": "DPO", "simpo": "SimPO", "hypo": "HyPO", "srpo": "SRPO"}
_HOMES = {
    "PreferenceConfig": "settings",
    "PreferenceTrainer": "base",
    "RevisionTemplate": "revision",
    "self_revise": "self_revision",
    **{f"{name}Config": module for module, name in _METHODS.items()},
    **{f"{name}Trainer": module for module, name in _METHODS.items()},
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rlalign"):
            raise
        raise MissingPackageError(
            f"training language models needs the package {error.name}: pip install 'rlalign[llm]'"
        ) from error
    return getattr(module, name)


class _Trainers(Mapping[str, "tuple[type[PreferenceConfig], type[PreferenceTrainer]]"]):
    """Config and trainer class of each method, imported when it is looked up."""

    def __getitem__(self, name: str) -> tuple[type[PreferenceConfig], type[PreferenceTrainer]]:
        method = _METHODS[name]
        return __getattr__(f"{method}Config"), __getattr__(f"{method}Trainer")

    def __iter__(self) -> Iterator[str]:
        return iter(_METHODS)

    def __len__(self) -> int:
        return len(_METHODS)


TRAINERS = _Trainers()
