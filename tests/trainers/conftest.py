"""Nothing here asks a network for anything; TRL's experimental warning is for users."""

from __future__ import annotations

import os

for _name in (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_DATASETS_DISABLE_PROGRESS_BARS",
    "TRL_EXPERIMENTAL_SILENCE",
):
    os.environ[_name] = "1"
