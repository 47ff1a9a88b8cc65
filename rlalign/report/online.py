"""What is measured of going online: where it starts, how deep it dips, where it ends."""

from __future__ import annotations

import numpy as np
from scipy.integrate import trapezoid

from rlalign.report.runs import Run

DIP_STEPS = 20_000


def lowest_early(run: Run) -> float | None:
    """The lowest score within the first 20,000 online steps, their step 0 included.

    None where nothing was evaluated between: step 0 alone cannot show a dip.
    """
    steps, scores = run.online.steps, run.online.scores
    if not ((steps > 0) & (steps <= DIP_STEPS)).any():
        return None
    return float(scores[steps <= DIP_STEPS].min())


def online_area(run: Run) -> float:
    """The mean score while learning online.

    The area under the online curve by the trapezoidal rule, divided by its length in environment
    steps. A curve without an evaluation at step 0 starts from the end of the offline phase.
    """
    steps, scores = run.online.steps, run.online.scores
    if steps[0] > 0 and len(run.offline):
        steps = np.concatenate([[0], steps])
        scores = np.concatenate([[run.offline.final], scores])
    if len(steps) == 1:
        return float(scores[0])
    return float(trapezoid(scores, steps) / (steps[-1] - steps[0]))


def measures(run: Run) -> dict[str, float]:
    """Every figure that a run has, by name."""
    found = {}
    if len(run.offline):
        found["offline"] = run.offline.final
    if len(run.online):
        dip = lowest_early(run)
        if dip is not None:
            found["dip"] = dip
        found["online"] = run.online.final
        found["area"] = online_area(run)
    return found
