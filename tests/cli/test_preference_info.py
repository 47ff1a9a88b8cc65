"""What `rlalign data info` says of preference pairs for a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("trl")

from rlalign import cli
from tests.trainers import tiny
from tests.trainers.runs import save_model, save_pairs


def test_end_tokens_of_the_models_own_settings_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pairs(tmp_path / "chats.jsonl", tiny.chats(4))
    model = save_model(tmp_path / "model")
    command = ["data", "info", str(tmp_path / "chats.jsonl"), "--model", str(model), "--json"]
    assert cli.run(command) == 0
    # The template ends turns with <end>, which is not the tokenizer's end-of-sequence token.
    assert json.loads(capsys.readouterr().out)["without_end"] == 8
    end = tiny.tokenizer().convert_tokens_to_ids("<end>")
    for file in ("generation_config.json", "config.json"):
        settings = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps({**settings, "eos_token_id": [2, end]}))
    assert cli.run(command) == 0
    assert json.loads(capsys.readouterr().out)["without_end"] == 0
    (model / "generation_config.json").unlink()
    assert cli.run(command) == 0
    assert json.loads(capsys.readouterr().out)["without_end"] == 0
