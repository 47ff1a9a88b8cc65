"""The text world: what it understands, what it rewards, and the pairs drawn from it."""

from __future__ import annotations

from random import Random

import pytest

from rlalign.errors import DatasetError
from rlalign.textworld.corpus import examples
from rlalign.textworld.grammar import Request, parse_request, read_answer, revision_prompt
from rlalign.textworld.pairs import SPLITS, preference_pairs
from rlalign.textworld.reward import judge, reward
from rlalign.textworld.words import FACTS, FILLERS, NEW_SUBJECTS, SUBJECTS, VERBS
from rlalign.textworld.writer import Habits, draw_request, write_answer

FOX = Request("fox", {"colour": "red", "place": "forest", "item": "map"})
FAULTLESS = Habits(
    forgets=0.0, errs=0.0, invents=0.0, packs=0.5, joins=0.5, fills=0.0, repeats=0.0, slips=0.0
)


def test_request_is_read_back() -> None:
    assert parse_request(FOX.prompt) == FOX
    with pytest.raises(ValueError, match="not a request"):
        parse_request("tell me a joke")


def test_no_word_means_two_things() -> None:
    words = [word for values in FACTS.values() for word in values]
    words += [*SUBJECTS, *VERBS]
    assert len(words) == len(set(words))
    assert not set(words) & {word for filler in FILLERS for word in filler.split()}


def test_faultless_writer_is_complete_fluent_and_true() -> None:
    random = Random(0)
    for _ in range(200):
        request = draw_request(random, SUBJECTS, (1, 2, 3, 4, 5, 6, 7))
        judged = judge(request, write_answer(request, random, FAULTLESS))
        assert judged.completeness == judged.fluency == 1.0
        assert judged.wrong == judged.invented == judged.repeated == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # completeness, fluency, wrong, invented, repeated
        (" the red fox waits in the forest . it carries a map .", (1.0, 1.0, 0, 0, 0)),
        (" the fox waits . it is red and carries a map .", (2 / 3, 1.0, 0, 0, 0)),
        (" the fox waits . it is blue .", (0.0, 1.0, 1, 0, 0)),
        (" the red bear waits .", (1 / 3, 1.0, 1, 0, 0)),
        (" the red fox waits . it is tiny .", (1 / 3, 1.0, 0, 1, 0)),
        (" the red fox waits . it is red .", (1 / 3, 1.0, 0, 0, 1)),
        (" the red fox waits . all is well . all is well .", (1 / 3, 1.0, 0, 0, 1)),
        (" it is red .", (0.0, 0.0, 0, 0, 0)),
        (" red the fox waits . it carries a map .", (0.0, 0.0, 0, 0, 0)),
        (" the red fox waits . it carries a", (1 / 3, 0.5, 0, 0, 0)),
        ("", (0.0, 0.0, 0, 0, 0)),
    ],
)
def test_answers_are_judged(answer: str, expected: tuple[float, ...]) -> None:
    j = judge(FOX, answer)
    assert (j.completeness, j.fluency, j.wrong, j.invented, j.repeated) == expected


def test_completeness_fluency_and_length_trade_off() -> None:
    short = " the fox waits ."
    packed = " the red fox waits in the forest . it carries a map ."
    wordy = " the fox waits . it is red . it stays in the forest . it carries a map ."
    filled = packed + " there is more to tell ."
    broken = " the red fox forest in the waits . it carries a map ."
    values = [reward(FOX.prompt, text) for text in (packed, wordy, filled, short, broken)]
    assert values[0] > max(values[1:])
    assert values[1] > values[3]  # saying more pays, though it takes words
    assert values[3] > values[4]  # what is not understood says nothing


def test_sentences_are_told_apart() -> None:
    found = read_answer(" at dawn the small red fox sits in the river . what a day it is .")
    assert found[0].facts == (
        ("time", "dawn"),
        ("size", "small"),
        ("colour", "red"),
        ("place", "river"),
    )
    assert found[0].subject == "fox"
    assert found[1].understood
    assert found[1].facts == ()


def test_pairs_are_the_same_each_time_and_splits_share_no_prompt() -> None:
    rows = {split: preference_pairs(split) for split in SPLITS}
    assert rows["validation"] == preference_pairs("validation")
    prompts = {split: {row["prompt"] for row in found} for split, found in rows.items()}
    assert not prompts["train"] & prompts["validation"]
    assert all(len(rows[split]) == plan.pairs for split, plan in SPLITS.items())
    for prompt in prompts["out-of-distribution"]:
        request = parse_request(prompt)
        assert request.subject in NEW_SUBJECTS
        assert len(request.facts) > 3


def test_preferences_follow_bradley_and_terry() -> None:
    rows = preference_pairs("train")
    gaps = [
        reward(row["prompt"], row["chosen"]) - reward(row["prompt"], row["rejected"])
        for row in rows
    ]
    # Where rewards differ by about 1, the better one is preferred with probability sigmoid(1);
    # the bound is over four standard errors.
    near = [gap > 0 for gap in gaps if 0.8 < abs(gap) < 1.2]
    assert len(near) > 300
    assert sum(near) / len(near) == pytest.approx(0.731, abs=0.1)
    clear = [gap > 0 for gap in gaps if abs(gap) > 4]
    assert sum(clear) / len(clear) > 0.97


def test_unknown_split_is_told() -> None:
    with pytest.raises(DatasetError, match="did you mean 'validation'"):
        preference_pairs("validaton")


def test_corpus_begins_faultless_and_shows_drafts() -> None:
    stream = examples(0, lessons=50)
    first = [next(stream) for _ in range(50)]
    plain = [(p, c) for p, c in first if "draft :" not in p]
    assert 20 < len(plain) < 45
    assert all(judge(parse_request(p), c).completeness == 1.0 for p, c in plain)
    assert any(
        p
        == revision_prompt(
            p.split("\ndraft :")[0] + "\nanswer :",
            p.split("draft : ")[1].removesuffix("\nbetter :"),
        )
        for p, _ in first
        if "draft :" in p
    )
