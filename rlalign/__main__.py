"""`python -m rlalign` is `rlalign`."""

from __future__ import annotations

from rlalign.cli import main

main()
