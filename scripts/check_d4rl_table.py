"""Compare rlalign's table of D4RL tasks with the `infos.py` of a d4rl wheel, loaded as a file.

Usage: python scripts/check_d4rl_table.py path/to/d4rl/infos.py [--write]

The d4rl package itself cannot be imported beside gymnasium 1.x; its table of URLs and scores can.
With --write the table is made from the file instead of being compared with it.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from rlalign.data import d4rl

PLAIN_BASE = "http://" + d4rl.BASE_URL.removeprefix("https://")


def differences(infos: dict[str, Any]) -> list[str]:
    """List where rlalign's URLs and reference scores differ from those of `infos.py`."""
    found = []
    theirs = {
        name: url.replace(PLAIN_BASE, d4rl.BASE_URL) for name, url in infos["DATASET_URLS"].items()
    }
    ours = {task.name: task.url for task in d4rl.tasks()}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            found.append(f"{name}: URL {ours.get(name)} here, {theirs.get(name)} in infos.py")
    low, high = infos["REF_MIN_SCORE"], infos["REF_MAX_SCORE"]
    scores = {task.name: task.reference for task in d4rl.tasks() if task.reference}
    for name in sorted(low.keys() | high.keys() | scores.keys()):
        wanted = (low.get(name), high.get(name))
        if scores.get(name) != wanted:
            found.append(f"{name}: scores {scores.get(name)} here, {wanted} in infos.py")
    return found


def table(infos: dict[str, Any]) -> dict[str, Any]:
    """Make the table that ships with rlalign: paths below one base URL, names grouped by scores."""
    groups: dict[tuple[float, float], list[str]] = {}
    for name in sorted(infos["REF_MIN_SCORE"]):
        pair = (infos["REF_MIN_SCORE"][name], infos["REF_MAX_SCORE"][name])
        groups.setdefault(pair, []).append(name)
    urls = {name: url.removeprefix(PLAIN_BASE) for name, url in infos["DATASET_URLS"].items()}
    return {
        "scores": [{"random": r, "expert": e, "tasks": names} for (r, e), names in groups.items()],
        "paths": dict(sorted(urls.items())),
    }


def main() -> int:
    """Compare, print every difference, and return 1 if there is any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("infos", type=Path, help="infos.py of the d4rl wheel")
    parser.add_argument("--write", action="store_true", help="make the table from the file")
    arguments = parser.parse_args()
    infos = runpy.run_path(str(arguments.infos))
    if arguments.write:
        d4rl.TABLE_PATH.write_text(json.dumps(table(infos), indent=1) + "\n")
        return 0
    found = differences(infos)
    verdict = f"{len(list(d4rl.tasks()))} tasks agree with {arguments.infos}\n"
    sys.stdout.write("".join(f"{line}\n" for line in found) or verdict)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
