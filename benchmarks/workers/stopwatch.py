"""Times the parts of an online loop from outside, without touching the loop."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import gymnasium


class Stopwatch:
    """Seconds by the clock, by name of the part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with its time added to part `name`."""

        @functools.wraps(call)
        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        return timed

    def read(self) -> dict[str, float]:
        """Return the parts since the last reading and start anew."""
        seconds, self.seconds = self.seconds, {}
        return seconds


def environment(name: str, watch: Stopwatch) -> gymnasium.Env[Any, Any]:
    """Make an environment whose steps and resets are timed, below all wrappers."""
    made = gymnasium.make(name)
    base = made.unwrapped
    for part in ("step", "reset"):
        setattr(base, part, watch.around("environment", getattr(base, part)))
    return made
