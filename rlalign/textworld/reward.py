"""The known reward of the text world: complete, true, fluent and short, each at the others' cost.

Saying more facts takes words; packing them into fewer words takes longer sentences, which are
easier to get wrong; a filler is fluent and says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlalign.textworld.grammar import Request, parse_request, read_answer

COMPLETENESS = 4.0  # for all facts that were asked for
FLUENCY = 2.0  # for sentences that all follow the grammar
WRONG = 1.0  # for each statement against the request, or about another subject
INVENTED = 0.5  # for each fact that was not asked for
REPEATED = 0.5  # for each fact or filler said before
WORD = 0.05  # for each word


@dataclass(frozen=True)
class Judgement:
    """What an answer is worth, part by part.

    Args:
        completeness: share in [0, 1] of the facts asked for that are said.
        fluency: share in [0, 1] of the sentences that follow the grammar.
        wrong: statements that contradict the request.
        invented: facts that were not asked for.
        repeated: facts and fillers said before.
        words: in the answer, full stops included.
    """

    completeness: float
    fluency: float
    wrong: int
    invented: int
    repeated: int
    words: int

    @property
    def reward(self) -> float:
        """The weighed sum; about -2 to 5.5."""
        return (
            COMPLETENESS * self.completeness
            + FLUENCY * self.fluency
            - WRONG * self.wrong
            - INVENTED * self.invented
            - REPEATED * self.repeated
            - WORD * self.words
        )


def judge(request: Request, answer: str) -> Judgement:
    """Judge an answer; an empty one is neither complete nor fluent."""
    sentences = read_answer(answer)
    said: set[tuple[str, str]] = set()
    fillers: set[str] = set()
    right: set[str] = set()
    wrong = invented = repeated = 0
    for sentence in sentences:
        if not sentence.understood:
            continue
        wrong += sentence.subject is not None and sentence.subject != request.subject
        if not sentence.facts and sentence.subject is None:
            repeated += sentence.text in fillers
            fillers.add(sentence.text)
        for kind, value in sentence.facts:
            if (kind, value) in said:
                repeated += 1
            elif kind not in request.facts:
                invented += 1
            elif request.facts[kind] == value:
                right.add(kind)
            else:
                wrong += 1
            said.add((kind, value))
    understood = sum(sentence.understood for sentence in sentences)
    return Judgement(
        completeness=len(right) / len(request.facts),
        fluency=understood / len(sentences) if sentences else 0.0,
        wrong=wrong,
        invented=invented,
        repeated=repeated,
        words=len(answer.split()),
    )


def reward(prompt: str, answer: str) -> float:
    """The known reward of an answer to a prompt of the text world.

    Raises `ValueError` for a prompt that is no request of the text world.
    """
    return judge(parse_request(prompt), answer).reward
