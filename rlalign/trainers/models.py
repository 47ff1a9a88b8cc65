"""The language model and the tokenizer that a recipe names, loaded and held to each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlalign.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlalign.recipe.trainer_schema import Model

TEXTWORLD = "textworld"
# What transformers raises for files that are missing, damaged, or of a kind it does not know.
UNLOADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError)


def model_path(name: str, *, progress: bool = False) -> str:
    """The folder of a local model, the name of one on the hub, or the text world's folder.

    Raises `ModelError` for a folder without a model and for a path that does not exist.
    """
    if name == TEXTWORLD:
        from rlalign.textworld.store import model_folder

        return str(model_folder(progress=progress))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            hint = (
                "it is an adapter: name its base model and continue the run that made it"
                if (path / "adapter_config.json").is_file()
                else "it has no config.json"
            )
            raise ModelError(f"{name}: not the folder of a Hugging Face model; {hint}")
        return str(path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            f"{name}: no such folder; a model is a folder, OWNER/NAME on the hub, or {TEXTWORLD}"
        )
    return name


def load_tokenizer(model: Model, path: str) -> PreTrainedTokenizerBase:
    """The tokenizer, with a padding token.

    Raises `ModelError` when there is none, or it has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    source, revision = path, model.revision
    if model.tokenizer is not None:
        source, revision = model.tokenizer, None  # the revision is the model's, not another's
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except UNLOADABLE as error:
        raise ModelError(f"{source}: the tokenizer cannot be loaded ({_reason(error)})") from None
    if tokenizer.eos_token is None:
        raise ModelError(
            f"{source}: the tokenizer has no end-of-sequence token, so no completion could end; "
            "set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    model: Model, path: str, tokenizer: PreTrainedTokenizerBase, *, adapter: bool
) -> PreTrainedModel:
    """The causal language model, on the CPU.

    With `dtype: auto` weights that are trained are float32, because optimisers lose small steps in
    half precision; under an adapter, which leaves them as they are, they stay as the files have
    them.

    Raises:
        ModelError: if it cannot be loaded, or does not fit the tokenizer.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if model.dtype == "float16" and not adapter:
        raise ModelError(
            f"{model.name}: float16 weights cannot be trained, Adam's small numbers vanish; "
            "use model.dtype=float32 (training.fp16=true computes in float16 on a GPU), or an "
            "adapter (peft)"
        )
    dtype: Any = model.dtype
    if model.dtype == "auto" and not adapter:
        dtype = "float32"
    attention = {} if model.attention is None else {"attn_implementation": model.attention}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            revision=model.revision,
            **attention,
        )
    except (*UNLOADABLE, SafetensorError) as error:
        raise ModelError(f"{model.name}: the model cannot be loaded ({_reason(error)})") from None
    check_vocabulary(loaded, tokenizer, model.name)
    return loaded


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise `ModelError` when the tokenizer knows tokens that the model cannot embed."""
    embedded = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embedded:
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, the model only {embedded}; do "
            "they belong together?"
        )


def context_length(model: PreTrainedModel) -> int | None:
    """Tokens that the model can read, or None where it does not say."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def load_trained(model: Model, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A trained model from a run's folder: whole, or an adapter on its initial model.

    Raises `ModelError` when the folder holds neither.
    """
    whole = (folder / "config.json").is_file()
    if not whole and not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: holds neither a model nor an adapter")
    trained = model.model_copy(update={"tokenizer": str(folder), "revision": None})
    tokenizer = load_tokenizer(trained, str(folder))
    if whole:
        named = trained.model_copy(update={"name": str(folder), "dtype": _as_saved(model)})
        return load_model(named, str(folder), tokenizer, adapter=False), tokenizer
    from peft import PeftModel

    base = load_model(model, model_path(model.name), tokenizer, adapter=True)
    return PeftModel.from_pretrained(base, str(folder)), tokenizer


def _as_saved(model: Model) -> str:
    return "auto" if model.dtype == "float16" else model.dtype


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "a file is not valid JSON"
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removesuffix(".")
