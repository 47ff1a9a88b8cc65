"""Random generators in checkpoints: exact on the same kind of device, seeded anew on another."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from rlalign.errors import CheckpointError


def restore_generator(generator: torch.Generator, state: Tensor, device: str) -> None:
    """Go on with the random numbers of a saved state.

    A processor and a GPU keep different states, and draw different numbers. From the other kind's
    the generator is seeded with the state's digest: the same file always goes on in the same way.

    Args:
        generator: is changed.
        state: what `get_state` returned, uint8 [n].
        device: type of the device that it was saved on, ``"cpu"`` or ``"cuda"``.

    Raises:
        CheckpointError: if it is no state of such a device.
    """
    state = state.cpu()
    if device != generator.device.type:
        digest = hashlib.sha256(state.numpy().tobytes()).digest()
        generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return
    try:
        generator.set_state(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"the checkpoint's random generator, {len(state)} bytes, is not one of a {device}"
        ) from error
