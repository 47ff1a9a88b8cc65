"""Means over seeds and how sure they are, by scipy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES = 5_000
CONFIDENCE = 0.95
TRIM = 0.25  # from each end: what is left are the quartiles in the middle
SEED = 0  # a report made twice says the same


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, its standard error, and a bootstrap interval; None of one seed."""

    count: int
    mean: float
    error: float | None
    interquartile_mean: float
    interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "seeds": self.count,
            "mean": self.mean,
            "standard_error": self.error,
            "interquartile_mean": self.interquartile_mean,
            "interval_95": None if self.interval is None else list(self.interval),
        }


def estimate(scores: Sequence[float]) -> Estimate:
    """What one number per seed says; with fewer than four seeds the IQM is the mean."""
    values = np.asarray(scores, dtype=np.float64)
    several = len(values) > 1
    return Estimate(
        count=len(values),
        mean=float(values.mean()),
        error=float(stats.sem(values)) if several else None,
        interquartile_mean=float(stats.trim_mean(values, TRIM)),
        interval=_bootstrap((values,), np.mean) if several else None,
    )


def over_tasks(scores: Sequence[Scores]) -> Estimate:
    """Interquartile mean over all seeds of all tasks, resampled within each task.

    `scores` holds one array [seeds] a task. The procedure of arXiv 2108.13264.
    """
    pooled = np.concatenate(scores)

    def interquartile(*samples: Scores, axis: int = -1) -> Any:
        return stats.trim_mean(np.concatenate(samples, axis=axis), TRIM, axis=axis)

    several = all(len(values) > 1 for values in scores)
    means = np.array([values.mean() for values in scores])
    return Estimate(
        count=min(len(values) for values in scores),
        mean=float(means.mean()),
        error=None,
        interquartile_mean=float(stats.trim_mean(pooled, TRIM)),
        interval=_bootstrap(tuple(scores), interquartile) if several else None,
    )


def band(scores: Scores) -> tuple[Scores, Scores] | None:
    """Bounds [points] around the mean of curves [seeds, points]; None of one seed."""
    if len(scores) < 2:
        return None
    result = stats.bootstrap(
        (scores,),
        np.mean,
        axis=0,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return result.confidence_interval.low, result.confidence_interval.high


def _bootstrap(samples: tuple[Scores, ...], statistic: Any) -> Interval:
    with warnings.catch_warnings():
        # Equal scores of all seeds leave nothing to resample: the interval is a point.
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            samples,
            statistic,
            axis=-1,
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(SEED),
        )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)
