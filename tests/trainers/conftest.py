"""Nothing here asks a network for anything; TRL's experimental warning is for users."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

for _name in (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_DATASETS_DISABLE_PROGRESS_BARS",
    "TRL_EXPERIMENTAL_SILENCE",
):
    os.environ[_name] = "1"


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield
