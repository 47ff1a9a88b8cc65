"""What the text world's model is pre-trained on: answers to requests, and revisions of drafts.

A revision is another version of the draft or a fresh answer, as often worse as better: the model
knows the form, and what makes an answer better is left to preference training.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

from rlalign.textworld.grammar import revision_prompt
from rlalign.textworld.words import SUBJECTS
from rlalign.textworld.writer import HABITS, Habits, draw_request, edit_answer, write_answer

REVISIONS = 0.35  # share of the examples
FRESH = 0.3  # share of the revisions that do not look at the draft
FACT_COUNTS = (1, 2, 3, 4, 5)
# From faultless answers a model learns several times sooner that facts are taken from the request.
FAULTLESS = Habits(forgets=0.0, errs=0.0, invents=0.0, fills=0.0, repeats=0.0, slips=0.0)


def examples(seed: int, *, lessons: int = 0) -> Iterator[tuple[str, str]]:
    """Prompt and completion, without end, in an order that the seed fixes.

    The first `lessons` answers are faultless; after that the writer has its habits.
    """
    random = Random(seed)
    for number in itertools.count():
        habits = FAULTLESS if number < lessons else HABITS
        request = draw_request(random, SUBJECTS, FACT_COUNTS)
        answer = write_answer(request, random, habits)
        if random.random() >= REVISIONS:
            yield request.prompt, answer
            continue
        fresh = random.random() < FRESH
        better = write_answer(request, random) if fresh else edit_answer(request, answer, random)
        yield revision_prompt(request.prompt, answer), better
