"""Where an agent computes, and what its random numbers begin from."""

from __future__ import annotations

import operator
from typing import Any

import torch

from rlalign.errors import SettingsError


def usable_device(device: str | torch.device) -> torch.device:
    """Return the device of this name; ``"auto"`` is a CUDA device where there is one.

    Raises:
        SettingsError: if it is neither a processor nor a CUDA device, or is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wrong = f"device must be 'cpu' or 'cuda[:n]', got {str(device)!r}"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise SettingsError(wrong) from error
    if chosen.type not in ("cpu", "cuda"):
        raise SettingsError(wrong)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device is {str(device)!r}, but torch finds no CUDA device here")
    return chosen


def whole_seed(seed: Any) -> int:
    """Return the seed as an int; raises `SettingsError` if it is negative or not whole."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise SettingsError(f"seed must be a whole number of at least 0, got {seed!r}")
    return number
