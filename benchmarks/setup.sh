#!/usr/bin/env bash
# Makes the peers' environments: .bench/peers (d3rlpy, stable-baselines3), .bench/jax (sbx-rl).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${1:-python3}"
for name in peers jax; do
  if [ ! -x ".bench/$name/bin/python" ]; then
    "$python" -m venv ".bench/$name"
  fi
  # torch first and alone, as in the Makefile.
  ".bench/$name/bin/python" -m pip install --quiet "$(grep '^torch==' constraints.txt)"
  ".bench/$name/bin/python" -m pip install --quiet --requirement "benchmarks/requirements-$name.txt"
done
