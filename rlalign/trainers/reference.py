"""Where a trainer's reference model comes from."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

from rlalign.errors import CheckpointError, SettingsError

FILE = "reference.safetensors"  # in a checkpoint, where the reference moves


def copied_reference(model: Any, args: Any, peft_config: Any) -> Any:
    """Copy a policy that is an object; None where the reference comes from elsewhere.

    TRL would load it anew by its name. An object may have none, or one whose files hold other
    weights: a copy agrees with the policy for certain. Sharded parameters cannot be copied.
    """
    if isinstance(model, str) or is_peft(model) or peft_config is not None:
        return None
    if args.precompute_ref_log_probs:
        return None
    return loaded_again(model) if shards_by_zero(args) else copy.deepcopy(model).eval()


def shards_by_zero(args: Any) -> bool:
    """Whether DeepSpeed's ZeRO-3 gives each process a part of every parameter."""
    plugin = args.deepspeed_plugin
    return plugin is not None and plugin.zero_stage == 3


def loaded_again(model: Any) -> Any:
    """Load the files that a policy came from once more, at the commit it was loaded from.

    TRL would take the newest commit. Raises SettingsError for a model that came from no files.
    """
    if not model.config._name_or_path:
        raise SettingsError(
            "the policy's parameters are sharded and it was not loaded from files, so there is no "
            "reference to be had: give ref_model"
        )
    return type(model).from_pretrained(
        model.config._name_or_path,
        revision=getattr(model.config, "_commit_hash", None),
        dtype=model.dtype,
        attn_implementation=model.config._attn_implementation,
    )


def save_reference(model: Any, folder: Path) -> None:
    """Keep a reference that moves (`sync_ref_model`) in a checkpoint's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / FILE))


def load_reference(model: Any, folder: Path) -> None:
    """Put a reference back to what `save_reference` wrote.

    Raises:
        CheckpointError: if the checkpoint has none.
    """
    if not (folder / FILE).is_file():
        raise CheckpointError(
            f"checkpoint {folder} has no {FILE}: with sync_ref_model a run goes on only from where "
            "its reference was, which is not kept where parameters are sharded"
        )
    load_model(model, folder / FILE)


@contextlib.contextmanager
def loading_no_reference(args: Any) -> Iterator[None]:
    """Let TRL's constructor believe that the reference was computed beforehand.

    It then holds none. `_precompute_ref_logps` does nothing meanwhile. Under FSDP it still loads a
    reference and drops it at the end of the constructor.
    """
    before = args.precompute_ref_log_probs
    args.precompute_ref_log_probs = True
    try:
        yield
    finally:
        args.precompute_ref_log_probs = before


def is_peft(model: Any) -> bool:
    """Whether a model carries an adapter."""
    from accelerate.utils import is_peft_model

    return bool(is_peft_model(model))
