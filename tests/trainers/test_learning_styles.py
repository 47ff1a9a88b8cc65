"""DPO, SimPO and HyPO on words of a style: what they learn, and how far they leave the reference.

A small Llama of characters first learns words of two styles in equal parts, and rarely of a third
one that no pair contains. It is the reference. Pairs then prefer vowels to consonants.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from datasets import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig

from rlalign.trainers import (
    DPOConfig,
    DPOTrainer,
    HyPOConfig,
    HyPOTrainer,
    SimPOConfig,
    SimPOTrainer,
)
from rlalign.trainers.drawing import Voice
from rlalign.trainers.evaluation import Plan, evaluate
from rlalign.trainers.head import add_head
from tests.trainers import tiny
from tests.trainers.runs import teach

pytestmark = pytest.mark.slow

Figures = dict[str, float]
VOWELS, CONSONANTS, THIRD = "aeiou", "bcdfghjklmnpqrst", "vwxyz"
SHARES = {"vowels": 0.49, "consonants": 0.49, "third": 0.02}
ONLINE: dict[str, Any] = {"num_samples": 2, "max_new_tokens": 16}
METHODS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "DPO": (DPOTrainer, DPOConfig, {"beta": 0.1}),
    "HyPO 0.05": (HyPOTrainer, HyPOConfig, {"beta": 0.1, "kl_weight": 0.05, **ONLINE}),
    "HyPO 0.2": (HyPOTrainer, HyPOConfig, {"beta": 0.1, "kl_weight": 0.2, **ONLINE}),
    "SimPO": (SimPOTrainer, SimPOConfig, {"beta": 2.0, "gamma_beta_ratio": 0.5}),
}


def word(style: str, rng: random.Random) -> str:
    """5 to 8 letters: seven of ten vowels, seven of ten consonants, or all from "vwxyz"."""
    letters = range(rng.randint(5, 8))
    if style == "third":
        return "".join(rng.choice(THIRD) for _ in letters)
    share = 0.7 if style == "vowels" else 0.3
    return "".join(rng.choice(VOWELS if rng.random() < share else CONSONANTS) for _ in letters)


def vowel_shares(prompts: Any, texts: Any) -> list[float]:
    return [sum(letter in VOWELS for letter in text) / max(1, len(text)) for text in texts]


PLAN = Plan(prompts=512, max_new_tokens=16, batch_size=512, reward=vowel_shares)


def asked(rng: random.Random) -> str:
    """Four random letters as a user's turn, up to where the answer begins."""
    return "<user>" + "".join(rng.choices(tiny.LETTERS, k=4)) + "<end><assistant>"


def pairs(count: int, seed: int) -> Dataset:
    rng = random.Random(seed)
    return Dataset.from_list(
        [
            {
                "prompt": asked(rng),
                "chosen": word("vowels", rng),
                "rejected": word("consonants", rng),
            }
            for _ in range(count)
        ]
    )


def reference(folder: Path, seed: int) -> Path:
    rng = random.Random(1000 + seed)
    rows = [
        {"prompt": asked(rng), "completion": word(style, rng)}
        for style in rng.choices(list(SHARES), list(SHARES.values()), k=8000)
    ]
    body = {**tiny.BODY, "hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 2}
    return teach(folder, LlamaConfig(**tiny.SIZES, **body), rows, seed)


def learned(name: str, folder: Path, taught: Path, seed: int) -> Figures:
    """Train 150 steps on 512 pairs; measure on 512 others, with a sample for each prompt."""
    trainer_class, config_class, changes = METHODS[name]
    settings = tiny.settings(
        folder, max_steps=150, per_device_train_batch_size=16, logging_steps=150, seed=seed
    )
    trainer = trainer_class(
        model=str(taught),
        args=config_class(**settings, **changes),
        train_dataset=pairs(512, seed=seed),
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    initial = AutoModelForCausalLM.from_pretrained(taught)
    add_head(initial, single_process=True)
    policy, first = (Voice(model, tiny.tokenizer()) for model in (trainer.model, initial))
    figures = evaluate(policy, first, pairs(512, seed=100 + seed), PLAN).figures
    rewarded = "average_margin" if name == "SimPO" else "margin"
    return {**figures, "reward_margin": changes["beta"] * figures[rewarded]}


@pytest.fixture(scope="module", params=[0, 1], ids="seed{}".format)
def figures(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Figures]:
    """What each method has learned from one reference, and its table for `pytest -s`."""
    folder = tmp_path_factory.mktemp("styles")
    taught = reference(folder, request.param)
    found = {name: learned(name, folder / name, taught, request.param) for name in METHODS}
    shown = ["kl_reverse", "reward", "accuracy", "reward_margin", "policy_length"]
    shown += ["policy_unfinished", "initial_reward", "initial_length"]
    for name, row in found.items():
        columns = "  ".join(f"{key} {row[key]:.3f}" for key in shown)
        sys.stdout.write(f"\nseed {request.param}, {name}: {columns}\n")
    return found


def test_dpo_learns_the_preferred_style(figures: dict[str, Figures]) -> None:
    """Measured, seeds 0 and 1: accuracy 0.93, 0.92; share of vowels 1.00, 0.995 from 0.51, 0.46."""
    assert figures["DPO"]["accuracy"] > 0.85
    assert figures["DPO"]["reward"] > 0.95
    assert figures["DPO"]["initial_reward"] < 0.6


def test_hypo_stays_nearer_to_the_reference_and_tells_pairs_apart_as_well(
    figures: dict[str, Figures],
) -> None:
    """Measured, seeds 0 and 1: KL 2.98, 3.34 of DPO's 4.46, 11.2; accuracy 0.94, 0.92."""
    hypo, dpo = figures["HyPO 0.05"], figures["DPO"]
    assert hypo["kl_reverse"] <= 0.85 * dpo["kl_reverse"]
    assert hypo["accuracy"] > dpo["accuracy"] - 0.05
    assert hypo["reward"] > 0.9


def test_more_weight_keeps_hypo_nearer_still(figures: dict[str, Figures]) -> None:
    """Measured, seeds 0 and 1: KL 0.63, 1.25; share of vowels 0.74, 0.72."""
    hypo = figures["HyPO 0.2"]
    assert hypo["kl_reverse"] <= 0.3 * figures["DPO"]["kl_reverse"]
    assert hypo["initial_reward"] + 0.1 < hypo["reward"] < 0.9


def test_simpo_learns_the_preferred_style(figures: dict[str, Figures]) -> None:
    """Measured, seeds 0 and 1: margin 4.87, 5.65; share of vowels 0.97, 0.99.

    Nothing holds it to the reference: KL 20.7, 3.99.
    """
    assert figures["SimPO"]["reward_margin"] > 3
    assert figures["SimPO"]["reward"] > 0.85
