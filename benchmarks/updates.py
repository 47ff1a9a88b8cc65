"""Gradient updates per second: rlalign, its peers and the matrix products, taking turns.

python -m benchmarks.updates                    # one core, CPU seconds
python -m benchmarks.updates --threads 2        # two threads, seconds by the clock
python -m benchmarks.updates --only sac,iql --rounds 3 --seconds 0.5
"""

from __future__ import annotations

import sys

from benchmarks.contestants import selected
from benchmarks.options import parser
from benchmarks.process import WorkerError
from benchmarks.tables import write_updates
from benchmarks.turns import measure


def main() -> int:
    """Measure, write the results and print the table."""
    command = parser("Gradient updates per second.", rounds=15, seconds=2.0)
    command.add_argument("--only", default="", help="groups, such as sac,ro2o,famo2o_iql")
    command.add_argument("--label", default="", help="at the end of the result files' names")
    options = command.parse_args()
    try:
        measurement = measure(selected(options.only), options)
    except (WorkerError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    name = f"updates-{options.device}-threads-{options.threads}"
    name += f"-{options.label}" if options.label else ""
    print(write_updates(options.results, name, measurement))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
