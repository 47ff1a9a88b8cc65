"""Online learning: environment steps per second, and what the loop itself costs.

SAC on HalfCheetah-v5, one environment, one update a step. The time inside the physics and inside
the update (drawing the batch included) is taken from outside; the rest is the loop's own.

    python -m benchmarks.online
"""

from __future__ import annotations

import sys

from benchmarks.contestants import ONLINE
from benchmarks.options import parser
from benchmarks.process import WorkerError
from benchmarks.tables import write_online
from benchmarks.turns import measure


def main() -> int:
    """Measure, write the results and print the table."""
    command = parser("Environment steps per second.", rounds=9, seconds=3.0)
    options = command.parse_args()
    try:
        measurement = measure(ONLINE, options)
    except (WorkerError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    name = f"online-{options.device}-threads-{options.threads}"
    print(write_online(options.results, name, measurement))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
