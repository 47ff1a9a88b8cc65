"""Pairs held out of a dataset by whole prompts, so that none is trained on and evaluated too."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from rlalign.data.preferences.loading import Preferences
from rlalign.errors import DatasetError


def split_by_prompt(pairs: Preferences, share: float, seed: int) -> tuple[Preferences, Preferences]:
    """Split a dataset in two, all pairs of a prompt on the same side.

    Args:
        pairs: the dataset, not streamed.
        share: of the pairs to hold out, in (0, 1); whole prompts, drawn at random, come
            close to it.
        seed: of the choice, and of the order on both sides.

    Returns:
        What is left, and what is held out.

    Raises:
        DatasetError: if one side would be empty.
    """
    count = len(pairs.rows)
    wanted = round(count * share)
    if not 0 < wanted < count:
        raise DatasetError(
            f"{pairs.name}: data.evaluation_share={share:g} of {count} pairs leaves {wanted} to "
            "hold out; at least one has to be on each side"
        )
    groups: dict[str, list[int]] = {}
    for row, prompt in enumerate(pairs.rows["prompt"]):
        groups.setdefault(json.dumps(prompt, sort_keys=True), []).append(row)
    if len(groups) == 1:
        raise DatasetError(
            f"{pairs.name}: data.evaluation_share holds out whole prompts, but all {count} pairs "
            "have the same one; give an evaluation_dataset"
        )
    random = np.random.default_rng(seed)
    of_prompt = [list(rows) for rows in groups.values()]
    order = random.permutation(len(of_prompt)).tolist()
    held = _choose([len(rows) for rows in of_prompt], order, wanted)
    sides = [
        pairs.rows.select(
            random.permutation([row for i in chosen for row in of_prompt[i]]).tolist()
        )
        for chosen in (sorted(set(order) - held), sorted(held))
    ]
    rest = Preferences(pairs.name, sides[0], pairs.form, pairs.fingerprint, pairs.left_out)
    name = f"{share:g} of {pairs.name}"
    return rest, Preferences(name, sides[1], pairs.form, pairs.fingerprint)


def _choose(sizes: Sequence[int], order: Sequence[int], wanted: int) -> set[int]:
    """Groups that together are about as large as wanted, at least one and not all."""
    chosen: set[int] = set()
    total = 0
    for group in order:
        if total + sizes[group] <= wanted:
            chosen.add(group)
            total += sizes[group]
    left = [group for group in order if group not in chosen]
    smallest = min(left, key=lambda group: sizes[group])
    closer = total + sizes[smallest] - wanted < wanted - total
    if not chosen or (closer and len(left) > 1):
        chosen.add(smallest)
    return chosen
