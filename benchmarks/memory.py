"""Resident memory of loading a large dataset and training on it, as a ratio to its arrays' bytes.

    python -m benchmarks.memory [--transitions 2000000] [--updates 20] [--folder /tmp]

Makes HDF5 files of HalfCheetah's sizes, one in D4RL's v2 layout and one in the v0 layout without
next observations, then loads each and trains TD3+BC on it in a fresh process. Printed, and written
nowhere, is the growth of that process's peak resident memory over its size after all imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

OBSERVATION, ACTION, EPISODE = 17, 6, 1000
BLOCK = 100 * EPISODE  # rows written at a time; a block ends where an episode ends


def write_file(path: Path, transitions: int, *, rebuilt: bool) -> int:
    """Write random transitions of HalfCheetah's sizes; return the bytes of the arrays in memory."""
    import h5py

    random = np.random.default_rng(0)
    sizes = {"observations": OBSERVATION, "actions": ACTION, "next_observations": OBSERVATION}
    with h5py.File(path, "w") as file:
        for key, size in sizes.items():
            if key != "next_observations" or not rebuilt:
                file.create_dataset(key, (transitions, size), np.float32, chunks=True)
        for start in range(0, transitions, BLOCK):
            rows = slice(start, min(start + BLOCK, transitions))
            count = rows.stop - rows.start
            states = random.uniform(-1, 1, (count + 1, OBSERVATION)).astype(np.float32)
            file["observations"][rows] = states[:-1]
            if not rebuilt:
                file["next_observations"][rows] = states[1:]
            file["actions"][rows] = random.uniform(-1, 1, (count, ACTION)).astype(np.float32)
        file["rewards"] = random.uniform(-1, 1, transitions).astype(np.float32)
        file["terminals"] = np.zeros(transitions, dtype=bool)
        file["timeouts"] = np.arange(transitions) % EPISODE == EPISODE - 1
    return transitions * (4 * (2 * OBSERVATION + ACTION + 1) + 2)


def _status(key: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def measure(path: Path, small: Path, updates: int) -> dict[str, float]:
    """Load and train in this process; return resident bytes before, and peaks after each stage."""
    from gymnasium.spaces import Box

    from rlalign import load_dataset
    from rlalign.agents import TD3BC

    def train(file: Path) -> None:
        dataset = load_dataset(file)
        agent = TD3BC((Box(-np.inf, np.inf, (OBSERVATION,)), Box(-1, 1, (ACTION,))), seed=0)
        peaks.append(_status("VmHWM"))
        agent.fit(dataset, steps=updates)

    peaks: list[int] = []
    train(small)  # every import and lazy initialisation is behind us after this
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    train(path)
    return {"before": before, "loaded": peaks[-1], "trained": _status("VmHWM")}


def main() -> None:
    """Make the files, measure in a subprocess, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--transitions", type=int, default=2_000_000)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=None, help="where the files are made")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], arguments.measure[1], arguments.updates)))
        return
    print("| layout | transitions | arrays | loaded | loaded and trained |\n|---|---|---|---|---|")
    for rebuilt in (False, True):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            path, small = Path(folder) / "large.hdf5", Path(folder) / "small.hdf5"
            size = write_file(path, arguments.transitions, rebuilt=rebuilt)
            write_file(small, 5_000, rebuilt=rebuilt)
            command = [sys.executable, __file__, "--updates", str(arguments.updates)]
            output = subprocess.run(
                [*command, "--measure", str(path), str(small)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
        found = json.loads(output.splitlines()[-1])
        ratios = [(found[stage] - found["before"]) / size for stage in ("loaded", "trained")]
        print(
            f"| {'v0 (rebuilt)' if rebuilt else 'v2'} | {arguments.transitions:,} "
            f"| {size / 1e6:.0f} MB | {ratios[0]:.3f} x | {ratios[1]:.3f} x |"
        )


if __name__ == "__main__":
    main()
