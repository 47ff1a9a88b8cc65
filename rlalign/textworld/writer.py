"""A writer of answers, sometimes forgetful, wrong, wordy or clumsy: what the model is taught by."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from rlalign.textworld.grammar import Request, following, opening
from rlalign.textworld.words import FACTS, FILLERS, VERBS

_IN_OPENING = ("time", "size", "colour", "place")


@dataclass(frozen=True)
class Habits:
    """How often the writer does what; each is a probability.

    Args:
        forgets: a fact that was asked for.
        errs: takes another value for a fact it says.
        invents: adds a fact nobody asked for.
        packs: puts a fact into the opening that can stand there.
        joins: says two facts in one sentence.
        fills: adds a filler.
        repeats: says a sentence once more.
        slips: loses or swaps a word of a sentence.
    """

    forgets: float = 0.3
    errs: float = 0.12
    invents: float = 0.15
    packs: float = 0.5
    joins: float = 0.4
    fills: float = 0.35
    repeats: float = 0.1
    slips: float = 0.1


HABITS = Habits()


def draw_request(random: Random, subjects: tuple[str, ...], counts: tuple[int, ...]) -> Request:
    """A request about one of `subjects` for one of `counts` facts."""
    kinds = random.sample(list(FACTS), random.choice(counts))
    facts = {kind: random.choice(FACTS[kind]) for kind in kinds}
    return Request(random.choice(subjects), facts)


def write_answer(request: Request, random: Random, habits: Habits = HABITS) -> str:
    """An answer; it begins with a space, as it goes on from the prompt's last word."""
    facts = _facts_to_say(request, random, habits)
    opened = {kind for kind in _IN_OPENING if kind in facts and random.random() < habits.packs}
    sentences = [
        opening(
            request.subject, random.choice(VERBS), {k: v for k, v in facts.items() if k in opened}
        )
    ]
    rest = [(kind, value) for kind, value in facts.items() if kind not in opened]
    random.shuffle(rest)
    while rest:
        count = 2 if len(rest) > 1 and random.random() < habits.joins else 1
        sentences.append(following(dict(rest[:count])))
        rest = rest[count:]
    if random.random() < habits.repeats:
        sentences.insert(random.randint(1, len(sentences)), random.choice(sentences))
    if random.random() < habits.fills:
        sentences.insert(random.randint(1, len(sentences)), random.choice(FILLERS))
    return join(
        [_slip(one, random) if random.random() < habits.slips else one for one in sentences]
    )


def join(sentences: list[str]) -> str:
    """Sentences as one answer, each with its full stop."""
    return "".join(f" {sentence} ." for sentence in sentences)


def edit_answer(request: Request, answer: str, random: Random) -> str:
    """Another version of an answer: a sentence left out, added or replaced, for better or worse."""
    sentences = [part.strip() for part in answer.split(" .") if part.strip()]
    other = [part.strip() for part in write_answer(request, random).split(" .") if part.strip()]
    change = random.choice(("drop", "add", "replace", "none"))
    where = random.randrange(len(sentences))
    if change == "drop" and len(sentences) > 1:
        del sentences[where]
    elif change == "add":
        sentences.append(random.choice(other))
    elif change == "replace":
        sentences[where] = random.choice(other)
    return join(sentences)


def _facts_to_say(request: Request, random: Random, habits: Habits) -> dict[str, str]:
    facts = {}
    for kind, value in request.facts.items():
        if random.random() < habits.forgets:
            continue
        wrong = random.random() < habits.errs
        facts[kind] = random.choice(FACTS[kind]) if wrong else value
    unasked = [kind for kind in FACTS if kind not in request.facts]
    if unasked and random.random() < habits.invents:
        kind = random.choice(unasked)
        facts[kind] = random.choice(FACTS[kind])
    return facts


def _slip(sentence: str, random: Random) -> str:
    words = sentence.split()
    where = random.randrange(len(words) - 1)
    if random.random() < 0.5:
        del words[where]
    else:
        words[where], words[where + 1] = words[where + 1], words[where]
    return " ".join(words)
