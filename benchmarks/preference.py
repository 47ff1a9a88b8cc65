"""Preference trainers: steps per second and peak memory, ours and TRL's on the same work.

Same model, rows, order, batch and optimiser; each contestant is a process of its own, and they take
turns. SimPO stands beside TRL's CPO with `loss_type="simpo"`, DPO beside TRL's DPO, HyPO and SRPO
beside our DPO.

    python -m benchmarks.preference                                   # on a CPU: a small model
    python -m benchmarks.preference --device cuda --size 0.5b --batch 8 --length 1024 \
        --new-tokens 53 --steps 10
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import describe
from benchmarks.process import ROOT, Turn, Worker, WorkerError
from benchmarks.tables import Spread, spread
from benchmarks.workers.preference_trainer import SIZES, PreferenceJob

Key = tuple[str, str]  # method, library
CONTESTANTS: tuple[Key, ...] = (
    ("simpo", "rlalign"),
    ("simpo", "trl"),
    ("dpo", "rlalign"),
    ("dpo", "trl"),
    ("hypo", "rlalign"),
    ("srpo", "rlalign"),
)
BESIDE: Mapping[Key, Key] = {
    ("simpo", "rlalign"): ("simpo", "trl"),
    ("dpo", "rlalign"): ("dpo", "trl"),
    ("hypo", "rlalign"): ("dpo", "rlalign"),
    ("srpo", "rlalign"): ("dpo", "rlalign"),
}
NAMES: Mapping[Key, str] = {
    ("simpo", "rlalign"): "SimPO, rlalign",
    ("simpo", "trl"): "CPO-SimPO, TRL",
    ("dpo", "rlalign"): "DPO, rlalign",
    ("dpo", "trl"): "DPO, TRL",
    ("hypo", "rlalign"): "HyPO, rlalign",
    ("srpo", "rlalign"): "SRPO, rlalign",
}


def arguments() -> argparse.ArgumentParser:
    """Return the command's options."""
    made = argparse.ArgumentParser(description="Preference trainers beside TRL's.")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--size", choices=sorted(SIZES), default="small")
    made.add_argument("--batch", type=int, default=4, help="pairs of a step")
    made.add_argument("--length", type=int, default=128, help="tokens of a sequence at most")
    made.add_argument("--new-tokens", type=int, default=16, help="of a completion HyPO draws")
    made.add_argument("--checkpointing", action="store_true", help="recompute activations")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    made.add_argument("--steps", type=int, default=4, help="optimiser steps of a turn")
    made.add_argument("--only", help="methods to run, such as simpo,dpo")
    made.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    return made


def job(key: Key, options: argparse.Namespace) -> PreferenceJob:
    """Return what a contestant has to do."""
    method, library = key
    return PreferenceJob(
        algorithm=method,
        transitions=512,
        threads=options.threads,
        device=options.device,
        seed=0,
        library=library,
        size=options.size,
        batch=options.batch,
        length=options.length,
        new_tokens=options.new_tokens,
        checkpointing=options.checkpointing,
    )


def measure(
    keys: Sequence[Key], options: argparse.Namespace
) -> tuple[dict[Key, list[Turn]], dict[str, str]]:
    """Let the contestants take turns; on a GPU one after the other, since memory is shared."""
    turns: dict[Key, list[Turn]] = {key: [] for key in keys}
    versions: dict[str, str] = {}
    together = options.device == "cpu"
    for group in [list(keys)] if together else [[key] for key in keys]:
        with ExitStack() as stack:
            workers: dict[Key, Worker] = {}
            for key in group:
                print(f"setting up {NAMES[key]}", file=sys.stderr)
                worker = Worker(Path(sys.executable), "preference_trainer", job(key, options))
                stack.callback(worker.close)
                workers[key] = worker
                versions |= worker.versions
                worker.turn(2)  # warm
            for number in range(options.rounds):
                for key in group if number % 2 == 0 else group[::-1]:
                    turns[key].append(workers[key].turn(options.steps))
                print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    return turns, versions


def lines(turns: Mapping[Key, Sequence[Turn]], clock: str) -> list[str]:
    """Return the table's lines: rates, peaks, and both as ratios to what stands beside."""
    out = [
        f"| | steps per {'CPU-second' if clock == 'cpu' else 'second'} | peak memory, MiB "
        "| beside | rate by | memory by |",
        "|---|---|---|---|---|---|",
    ]
    rates = {key: [turn.rate(clock) for turn in own] for key, own in turns.items()}
    peaks = {key: max(turn.parts["peak_bytes"] for turn in own) for key, own in turns.items()}
    for key, own in rates.items():
        other = BESIDE.get(key)
        beside = ""
        if other in rates:
            ratio = spread([a / b for a, b in zip(own, rates[other], strict=True)])
            beside = f"{NAMES[other]} | {ratio:.2f} | {peaks[key] / peaks[other]:.2f}"
        rate: Spread = spread(own)
        out.append(f"| {NAMES[key]} | {rate:.3f} | {peaks[key] / 2**20:.0f} | {beside or '| |'} |")
    return out


def page(
    turns: Mapping[Key, Sequence[Turn]], options: argparse.Namespace, facts: Mapping[str, Any]
) -> str:
    """Return the results as Markdown."""
    machine, shape = facts["machine"], SIZES[options.size]
    peak = (
        "most bytes of tensors on the GPU"
        if options.device == "cuda"
        else "growth of the process over its size after all imports"
    )
    seconds = [turn.wall for own in turns.values() for turn in own]
    return "\n".join(
        [
            f"# Preference trainers: {options.size} model, {options.device}",
            "",
            "Median and range over rounds; ratios of rates are taken round by round.",
            "",
            *lines(turns, "cpu" if options.device == "cpu" else "wall"),
            "",
            f"- Llama with random weights: vocabulary {shape['vocab_size']:,}, width "
            f"{shape['hidden_size']}, {shape['num_hidden_layers']} layers; batch {options.batch} "
            f"pairs, sequences of {options.length // 2} to {options.length} tokens, gradient "
            f"checkpointing {'on' if options.checkpointing else 'off'}; HyPO draws 2 completions "
            f"of {options.new_tokens} tokens for each prompt.",
            f"- Peak memory: {peak}.",
            f"- {machine['processor']} ({machine['cores']} cores), threads {options.threads}; load "
            f"before and after: {machine['load_before']}, {machine['load_after']}.",
            f"- {options.rounds} rounds of {options.steps} steps (median {median(seconds):.1f} s a "
            f"turn). {machine['time']}. "
            + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
            + ".",
            "",
        ]
    )


def main() -> int:
    """Measure, write the results and print the table."""
    options = arguments().parse_args()
    wanted = set(options.only.split(",")) if options.only else {key[0] for key in CONTESTANTS}
    keys = [key for key in CONTESTANTS if key[0] in wanted]
    if not keys:
        print(f"error: --only {options.only} names no method", file=sys.stderr)
        return 2
    machine = describe()
    try:
        turns, versions = measure(keys, options)
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    machine["load_after"] = round(os.getloadavg()[0], 2)
    facts = {"machine": machine, "versions": versions, "options": _plain(options)}
    text = page(turns, options, facts)
    options.results.mkdir(parents=True, exist_ok=True)
    name = f"preference-{options.device}-{options.size}"
    (options.results / f"{name}.md").write_text(text, encoding="utf-8")
    measured = {NAMES[key]: [asdict(turn) for turn in own] for key, own in turns.items()}
    document = json.dumps({**facts, "turns": measured}, indent=1) + "\n"
    (options.results / f"{name}.json").write_text(document, encoding="utf-8")
    print(text)
    return 0


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(options).items() if key != "results"}


if __name__ == "__main__":
    raise SystemExit(main())
