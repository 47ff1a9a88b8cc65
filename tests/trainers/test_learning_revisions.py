"""DPO, IPO and SRPO on strings of known quality, before and after self-revision.

A small GPT-2 first learns noisy copies: its answer to "abcd" is "abcdab" with each letter right
half of the time. The quality of an answer is the number of its right letters, 0 to 6. Pairs are two
answers of the reference, and the better one is preferred by a logistic chance of twice the
difference. "Skewed" pairs have the same poor answer on one side in every second row.

What self-revision (arXiv 2406.01660) can gain depends on what the reference does with a draft. So
there are two: "unseen" never read a revision prompt; "seen" read one in half of its lessons, and
there took each letter from the draft or from a fresh noisy copy, with equal chance.
"""

from __future__ import annotations

import math
import random
import sys
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import numpy as np
from datasets import Dataset
from transformers import AutoModelForCausalLM, GPT2Config

from rlalign.data.preferences.tokens import encode_prompt
from rlalign.trainers import DPOConfig, DPOTrainer, SRPOConfig, SRPOTrainer, self_revise
from rlalign.trainers.drawing import Voice, draw, texts_of
from tests.trainers import tiny
from tests.trainers.runs import teach

pytestmark = pytest.mark.slow

LETTERS, PAIRS, PROMPTS, REVISIONS, BETA = 6, 4000, 500, 3, 0.1
POOR = "z" * LETTERS
SAMPLING: dict[str, Any] = {"max_new_tokens": 10, "temperature": 1.0, "batch_size": PROMPTS}
# TRL's IPO is of log-ratios per token; an answer has seven tokens with its end.
METHODS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "DPO": (DPOTrainer, DPOConfig, {"beta": BETA}),
    "IPO": (DPOTrainer, DPOConfig, {"beta": BETA * (LETTERS + 1), "loss_type": ["ipo"]}),
    "SRPO": (SRPOTrainer, SRPOConfig, {"beta": BETA, "alpha": 0.5}),
}
RUNS = {
    "unseen": {"own": ["SRPO"]},
    "seen": {"own": ["SRPO", "IPO", "DPO"], "skewed": ["SRPO", "IPO"]},
}


@dataclass(frozen=True)
class Measured:
    """Mean qualities: after 0, 1, 2 and 3 revisions, and of one revision of perfect drafts."""

    revised: list[float]
    perfect: float


def asked(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices(tiny.LETTERS, k=4)) for _ in range(count)]


def perfect(prompt: str) -> str:
    return (prompt * 2)[:LETTERS]


def quality(prompt: str, answer: str) -> int:
    return sum(a == b for a, b in zip(perfect(prompt), answer, strict=False))


def noisy_copy(prompt: str, rng: random.Random) -> str:
    return "".join(rng.choice((letter, rng.choice(tiny.LETTERS))) for letter in perfect(prompt))


def reference(folder: Path, seed: int, *, seen: bool) -> Path:
    rng = random.Random(1000 + seed)
    rows = []
    for number, prompt in enumerate(asked(rng, 8000)):
        shown, answer = prompt, noisy_copy(prompt, rng)
        if seen and number % 2:
            draft = noisy_copy(prompt, rng)
            shown = str(tiny.SHORT.revise(prompt, draft))
            answer = "".join(map(rng.choice, zip(draft, answer, strict=True)))
        rows.append({"prompt": shown, "completion": answer})
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(**tiny.SIZES, n_embd=64, n_layer=2, n_head=4, n_positions=64, **dropout)
    return teach(folder, config, rows, seed)


def pairs(model: Any, seed: int, *, skewed: bool) -> Dataset:
    rng = random.Random(seed)
    prompts = asked(rng, PAIRS)
    drawn = self_revise(
        model,
        tiny.tokenizer(),
        prompts * 2,
        template=tiny.SHORT,
        revisions=0,
        seed=seed,
        **SAMPLING,
    )
    rows = []
    for number, prompt in enumerate(prompts):
        (first,), (second,) = drawn[number], drawn[PAIRS + number]
        if skewed and number % 2:
            second = POOR
        better = quality(prompt, first) - quality(prompt, second)
        if rng.random() > 1 / (1 + math.exp(-2 * better)):
            first, second = second, first
        rows.append({"prompt": prompt, "chosen": first, "rejected": second})
    return Dataset.from_list(rows)


def learned(method: str, folder: Path, taught: Path, rows: Dataset, seed: int) -> Any:
    trainer_class, config_class, changes = METHODS[method]
    folder.mkdir()
    tiny.SHORT.save(folder)
    if method == "SRPO":
        changes = {**changes, "template": str(folder)}
    settings = tiny.settings(
        folder, max_steps=200, per_device_train_batch_size=16, logging_steps=200, seed=seed
    )
    trainer = trainer_class(
        model=str(taught),
        args=config_class(**settings, **changes),
        train_dataset=rows,
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    return trainer.model


def measure(model: Any, seed: int) -> Measured:
    tokenizer = tiny.tokenizer()
    prompts = asked(random.Random(2000 + seed), PROMPTS)
    histories = self_revise(
        model, tokenizer, prompts, template=tiny.SHORT, revisions=REVISIONS, seed=seed, **SAMPLING
    )
    views = [encode_prompt(tokenizer, tiny.SHORT.revise(p, perfect(p))) for p in prompts]
    after = texts_of(draw(Voice(model, tokenizer), views, seed=seed, **SAMPLING), tokenizer)

    def mean(answers: Any) -> float:
        return sum(map(quality, prompts, answers)) / PROMPTS

    return Measured([mean(answers) for answers in zip(*histories, strict=True)], mean(after))


Found = dict[tuple[str, str], Measured]


def runs(folder: Path, seed: int, name: str) -> Found:
    """Figures of a reference and of all methods, by method and pairs; a table for `pytest -s`."""
    taught = reference(folder, seed, seen=name == "seen")
    model = AutoModelForCausalLM.from_pretrained(taught)
    found = {("SFT", "no"): measure(model, seed)}
    for kind, methods in RUNS[name].items():
        rows = pairs(model, seed, skewed=kind == "skewed")
        for method in methods:
            policy = learned(method, folder / f"{method}-{kind}", taught, rows, seed)
            found[method, kind] = measure(policy, seed)
    for (method, kind), row in found.items():
        revised = "  ".join(f"{mean:.2f}" for mean in row.revised)
        line = f"seed {seed}, {name}, {method}, {kind} pairs: {revised}; perfect {row.perfect:.2f}"
        sys.stdout.write(f"\n{line}\n")
    return found


@pytest.fixture(scope="module", params=[0, 1], ids="seed{}".format)
def figures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What all methods learn from the reference that saw drafts."""
    return runs(tmp_path_factory.mktemp("revisions"), request.param, "seen")


def counted(chances: list[float]) -> Any:
    """Probabilities of 0, 1, ... right letters, from each letter's."""
    one_by_one = [np.array([1 - chance, chance]) for chance in chances]
    return reduce(np.convolve, one_by_one)


def exact(*, kept: float) -> list[float]:
    """Mean qualities after 0 to 3 revisions in SRPO's exact optimum, from counts of right letters.

    The optimum tilts the reference's revisions of a draft by exp( p(revision beats draft) / beta ),
    and its answers by the inverse normaliser of that. The reference is taken to be what its lessons
    are: its revisions take a share `kept` of their letters from the draft.
    """
    right, counts = 0.5 + 0.5 / len(tiny.LETTERS), np.arange(LETTERS + 1)
    new = (1 - kept) * right
    revisions = [counted([kept + new] * d + [new] * (LETTERS - d)) for d in counts]
    tilted = revisions * np.exp(1 / BETA / (1 + np.exp(2 * (counts[:, None] - counts))))
    answers = counted([right] * LETTERS) / tilted.sum(1)
    means = []
    for _ in range(REVISIONS + 1):
        answers = answers / answers.sum()
        means.append(float(answers @ counts))
        answers = answers @ (tilted / tilted.sum(1, keepdims=True))
    return means


def test_srpo_answers_far_better_than_its_reference(figures: Found) -> None:
    """Measured without revision, seeds 0 and 1: 5.31, 5.06; with skewed pairs 4.90, 4.64.

    The reference 3.03, 2.98. IPO 5.12, 4.95 and 4.71, 4.57: by skewed pairs SRPO loses as much as
    IPO, which in the exact optimum it would not.
    """
    before = figures["SFT", "no"].revised[0]
    assert figures["SRPO", "own"].revised[0] > before + 1.5
    assert figures["SRPO", "skewed"].revised[0] > before + 1.0


def test_srpo_answers_about_as_well_as_its_exact_optimum(figures: Found) -> None:
    """In the optimum revisions help, unless the reference's revisions do not look at drafts."""
    assert exact(kept=0.5) == pytest.approx([5.11, 5.61, 5.83, 5.89], abs=0.01)
    assert exact(kept=0.0) == pytest.approx([5.73, 5.29, 5.19, 5.23], abs=0.01)
    assert abs(figures["SRPO", "own"].revised[0] - exact(kept=0.5)[0]) < 0.4


def test_srpo_loses_less_by_revising_than_ipo(figures: Found) -> None:
    """Measured after one and three revisions, seeds 0 and 1: 4.91, 4.53 and 4.46, 3.73.

    IPO 4.57, 4.23 and 3.90, 3.18. That SRPO's first revision gains, as in the exact optimum, is not
    so: it loses 0.40, 0.53. Without the stay term it lost 0.90, and with drafts swapped in the
    generative loss nothing was left (on one seed).
    """
    srpo, ipo = figures["SRPO", "own"].revised, figures["IPO", "own"].revised
    for own, other in zip(srpo[1:], ipo[1:], strict=True):
        assert own > other + 0.1
        assert own > figures["SFT", "no"].revised[0] + 0.3
    assert srpo[1] > srpo[0] - 0.7
    for others in (ipo, figures["DPO", "own"].revised):
        assert others[1] < others[0] + 0.1


def test_srpo_leaves_perfect_drafts_nearly_perfect(figures: Found) -> None:
    """Measured, seeds 0 and 1: 5.40, 5.09; the reference 4.50, 4.31; IPO 5.13, 4.77."""
    srpo = figures["SRPO", "own"].perfect
    assert srpo > figures["SFT", "no"].perfect + 0.6
    assert srpo > figures["IPO", "own"].perfect + 0.1


def test_a_reference_that_saw_no_drafts_is_improved_as_a_writer_and_cannot_revise(
    tmp_path: Path,
) -> None:
    """Measured with seeds 0 and 1: 4.27, 3.58, the reference 3.17, 3.01.

    After one revision 2.29, 2.09, the reference 0.65, 0.25.
    """
    found = runs(tmp_path, 0, "unseen")
    srpo, sft = found["SRPO", "own"].revised, found["SFT", "no"].revised
    assert srpo[0] > sft[0] + 0.4
    assert sft[1] + 0.5 < srpo[1] < srpo[0]
