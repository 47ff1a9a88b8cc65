"""A tokenizer of characters, tiny models of several families, and pairs to train them on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from rlalign.trainers.revision import RevisionTemplate

SHORT = RevisionTemplate("short", "{prompt}", "{prompt}({draft})", "(", ")")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "<end>"]
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '>' + message['content'] + '<end>' }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; a chat template whose turns end with <end>."""
    characters = [*SPECIAL, *LETTERS, *(" \n.,:'/()[]-ABCDEFGHIJKLMNOPQRSTUVWXYZ")]
    vocabulary = {token: index for index, token in enumerate(characters)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>", "<end>"],
        chat_template=TEMPLATE,
    )


SIZES: dict[str, Any] = {"vocab_size": 80, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
BODY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SIZES, **BODY, num_key_value_heads=2),
    "gpt2": lambda: GPT2Config(**SIZES, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "qwen2": lambda: Qwen2Config(**SIZES, **BODY, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**SIZES, **BODY, num_key_value_heads=2, head_dim=8),
    "gpt_neox": lambda: GPTNeoXConfig(**SIZES, **BODY),
}


def model(family: str = "llama", seed: int = 0) -> Any:
    """A random model of about 30,000 parameters."""
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(FAMILIES[family]())
    # Random weights of the usual size leave all probabilities alike.
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    return made


def pairs(count: int = 16, seed: int = 0) -> Dataset:
    """Prompts of 1 to 12 letters; chosen completions are vowels, rejected ones consonants."""
    rng = random.Random(seed)

    def word(letters: str, low: int, high: int) -> str:
        return "".join(rng.choice(letters) for _ in range(rng.randint(low, high)))

    return Dataset.from_list(
        [
            {
                "prompt": word(LETTERS, 1, 12) + ":",
                "chosen": word("aeiou", 2, 7),
                "rejected": word("bcdfg", 2, 7),
            }
            for _ in range(count)
        ]
    )


def chats(count: int = 16, seed: int = 0) -> Dataset:
    """The same pairs as conversations."""

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    return Dataset.from_list(
        [
            {
                "prompt": turn("user", row["prompt"]),
                "chosen": turn("assistant", row["chosen"]),
                "rejected": turn("assistant", row["rejected"]),
            }
            for row in pairs(count, seed).to_list()
        ]
    )


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of a config for a short run on the CPU that logs each step."""
    return {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        **changes,
    }


def losses(trainer: Any) -> list[float]:
    """The logged losses, step by step."""
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def token_logps(model: Any, tokenizer: Any, prompt: str, completion: str) -> Tensor:
    """Log-probabilities of a completion's tokens and its end's, without padding or trainer."""
    before = tokenizer(prompt)["input_ids"]
    ids = torch.tensor([before + tokenizer(completion + "<eos>")["input_ids"]])
    with torch.no_grad():
        logps = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    return logps.gather(-1, ids[:, 1:, None])[0, len(before) - 1 :, 0]


def minimise(loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    """Bring a loss without chance to its minimum, to about the precision of its type."""
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=2000,
        tolerance_grad=1e-13,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(5):  # a search that ends early goes on from where it is
        optimizer.step(closure)
