"""How the text world speaks: requests, sentences, and what a sentence says.

    request   describe a fox : colour red , place forest , item map .
    answer    the red fox waits in the forest . it carries a map .

An answer is understood sentence by sentence. It opens by naming its subject; after that "it" may
stand for the subject. What does not follow the grammar says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rlalign.textworld.words import FACTS, FILLERS, SUBJECTS, VERBS

ANSWER = "\nanswer :"
DRAFT = "\ndraft : "
BETTER = "\nbetter :"
_CLAUSES = {
    "size": "is {}",
    "colour": "is {}",
    "place": "stays in the {}",
    "time": "wakes at {}",
    "mood": "feels {}",
    "item": "carries a {}",
    "friend": "meets a {}",
}
_REQUEST = re.compile(r"describe a (?P<subject>\w+) : (?P<facts>[^.]+) \.")
# A model may spell words together ("thefox"): only single spaces part them.
_WORD_FACT = {word: kind for kind, words in FACTS.items() for word in words}


@dataclass(frozen=True)
class Request:
    """What an answer shall say: of whom, and which facts."""

    subject: str
    facts: Mapping[str, str]

    @property
    def prompt(self) -> str:
        """The request as a language model reads it; an answer goes on from its last word."""
        facts = " , ".join(f"{kind} {value}" for kind, value in self.facts.items())
        return f"describe a {self.subject} : {facts} .{ANSWER}"


@dataclass(frozen=True)
class Sentence:
    """What one sentence says: its subject (None for "it") and facts in order; or nothing."""

    text: str
    understood: bool
    subject: str | None = None
    facts: tuple[tuple[str, str], ...] = ()


def parse_request(prompt: str) -> Request:
    """Read a request back; raises `ValueError` for other text."""
    match = _REQUEST.match(prompt)
    if match is None:
        raise ValueError(f"not a request of the text world: {prompt!r}")
    facts = dict(part.split(" ", 1) for part in match["facts"].split(" , "))
    return Request(match["subject"], facts)


def revision_prompt(prompt: str, draft: str) -> str:
    """The request with a draft of the answer, where a better one is asked for."""
    return f"{prompt.removesuffix(ANSWER)}{DRAFT}{draft.strip()}{BETTER}"


def opening(subject: str, verb: str, facts: Mapping[str, str]) -> str:
    """A sentence that names the subject and holds size, colour, place and time where given."""
    words = [f"at {facts['time']}"] if "time" in facts else []
    words += ["the", *(facts[kind] for kind in ("size", "colour") if kind in facts)]
    words += [subject, verb]
    words += [f"in the {facts['place']}"] if "place" in facts else []
    return " ".join(words)


def following(facts: Mapping[str, str]) -> str:
    """A sentence about "it", a clause for each of one or two facts."""
    return "it " + " and ".join(_CLAUSES[kind].format(value) for kind, value in facts.items())


def read_answer(text: str) -> list[Sentence]:
    """The sentences of an answer and what each says; what follows the last full stop is one too."""
    parts = [" ".join(part.split(" ")).strip() for part in text.strip(" ").split(" .")]
    ended = [_read_sentence(part) for part in parts[:-1]]
    rest = [Sentence(parts[-1], understood=False)] if parts[-1] else []
    named = False
    sentences = []
    for sentence in ended:
        # "it" means nobody until somebody was named.
        if sentence.understood and sentence.facts and sentence.subject is None and not named:
            sentence = Sentence(sentence.text, understood=False)
        named = named or sentence.subject is not None
        sentences.append(sentence)
    return [*sentences, *rest]


def _one_of(words: tuple[str, ...]) -> str:
    return "(?:" + "|".join(words) + ")"


_OPENING = re.compile(
    f"(?:at (?P<time>{_one_of(FACTS['time'])}) )?the "
    f"(?:(?P<size>{_one_of(FACTS['size'])}) )?(?:(?P<colour>{_one_of(FACTS['colour'])}) )?"
    f"(?P<subject>{_one_of(SUBJECTS)}) {_one_of(VERBS)}"
    f"(?: in the (?P<place>{_one_of(FACTS['place'])}))?"
)
_CLAUSE = "(?:" + "|".join(form.format(_one_of(FACTS[k])) for k, form in _CLAUSES.items()) + ")"
_FOLLOWING = re.compile(f"it {_CLAUSE}(?: and {_CLAUSE})?")


def _read_sentence(text: str) -> Sentence:
    if text in FILLERS:
        return Sentence(text, understood=True)
    match = _OPENING.fullmatch(text)
    if match is not None:
        facts = tuple((k, v) for k, v in match.groupdict().items() if v and k != "subject")
        return Sentence(text, understood=True, subject=match["subject"], facts=facts)
    if _FOLLOWING.fullmatch(text):
        said = tuple((_WORD_FACT[word], word) for word in text.split() if word in _WORD_FACT)
        return Sentence(text, understood=True, facts=said)
    return Sentence(text, understood=False)
