from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlalign.agents import AGENTS
from rlalign.checkpoint import Checkpoints, join, load_state, part, save_state
from rlalign.errors import CheckpointError
from rlalign.replay import GrowingReplay
from tests.agents.tiny import make, weights
from tests.toy_data import box_spaces, random_rows

STATE: tuple[dict[str, torch.Tensor], dict[str, Any]] = (
    {
        "weights": torch.linspace(-1, 1, 12).view(3, 4),
        "scalar": torch.tensor(2.5),
        "generator": torch.Generator().manual_seed(3).get_state(),
        "view": torch.arange(12.0).view(3, 4).T,
    },
    {"step": 7, "name": "é", "nested": {"list": [1, None, True, 0.1]}, "big": 2**80},
)


def assert_same(found: tuple[dict, dict]) -> None:
    assert set(found[0]) == set(STATE[0])
    for name, tensor in STATE[0].items():
        assert torch.equal(found[0][name], tensor)
        assert found[0][name].dtype == tensor.dtype
    assert found[1] == STATE[1]


@pytest.mark.parametrize("ending", ["safetensors", "zip"])
def test_tensors_and_values_come_back_from_one_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "made" / f"state.{ending}"
    save_state(path, STATE)
    assert_same(load_state(path))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["safetensors", "zip"])
def test_missing_and_damaged_files_are_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"state.{ending}"
    with pytest.raises(CheckpointError, match="no such file"):
        load_state(path)
    save_state(path, STATE)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:20], b"", b"\x80\x04pickle"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=path.name) as caught:
            load_state(path)
        assert "\n" not in str(caught.value)


def test_a_file_of_tensors_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not a file written by rlalign"):
        load_state(tmp_path / "other.safetensors")


def test_folders_and_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = Checkpoints(tmp_path / "checkpoints").save("offline-1", STATE)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o640}


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoints.load()
    for step in range(4):
        checkpoints.save(f"step-{step}", (STATE[0], {**STATE[1], "step": step}))
    assert checkpoints.names() == ["step-2", "step-3"]
    assert checkpoints.load()[1]["step"] == 3
    assert checkpoints.load("step-2")[1]["step"] == 2
    with pytest.raises(CheckpointError, match="no such checkpoint; there are step-2, step-3"):
        checkpoints.load("step-0")
    checkpoints.save("step-3", STATE)  # again, after a resumption
    assert_same(checkpoints.load())
    assert checkpoints.names() == ["step-2", "step-3"]


def test_checkpoints_are_ordered_by_phase_and_step_whatever_their_age(tmp_path: Path) -> None:
    """`cp -r` gives folders times of change in no order."""
    names = ["offline-00000100", "online-00000050", "online-00000060", "online-100000000"]
    checkpoints = Checkpoints(tmp_path, keep=9)
    for name in names:
        checkpoints.save(name, STATE)
    for age, name in enumerate(names):
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert checkpoints.names() == names
    (tmp_path / "latest").unlink()
    assert checkpoints.latest == names[-1]
    checkpoints.go_back_to("online-00000050")
    assert checkpoints.names() == names[:2]


def test_steps_of_any_other_name_are_ordered_too(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=9)
    for step in (10, 9):
        checkpoints.save(f"step-{step}", STATE)
    assert checkpoints.names() == ["step-9", "step-10"]


def test_what_an_interruption_left_behind_is_cleared_away(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / ".unfinished-abc").mkdir()
    (tmp_path / ".unfinished-abc" / "state.safetensors").write_bytes(b"half")
    checkpoints.save("first", STATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest"]
    assert_same(checkpoints.load())


def test_a_kill_while_a_checkpoint_is_written_again_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("first", STATE)
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == "first":  # after the old one was set aside
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("rlalign.checkpoint.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save("first", (STATE[0], {**STATE[1], "step": 99}))
    monkeypatch.undo()
    assert_same(checkpoints.load())
    checkpoints.save("second", STATE)
    assert checkpoints.names() == ["first", "second"]
    assert_same(checkpoints.load("first"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest", "second"]


@pytest.mark.parametrize("pointer", [b"", b"\n", b"\xff\xfe"])
def test_a_damaged_pointer_is_lost_or_names_the_others(tmp_path: Path, pointer: bytes) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("first", STATE)
    (tmp_path / "latest").write_bytes(pointer)
    if pointer.strip():
        with pytest.raises(CheckpointError, match="no such checkpoint; there are first"):
            checkpoints.load()
    else:
        assert checkpoints.load()[1] == STATE[1]


@pytest.mark.parametrize("content", ["[]", "null", "{}", "3", '{"body": 3}'])
def test_a_state_that_is_no_object_is_damaged(tmp_path: Path, content: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("first", STATE)
    (tmp_path / "first" / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"state.json: damaged or changed"):
        checkpoints.load()


def test_a_checkpoint_is_replaced_without_being_missing_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting takes time, in which a kill would leave `latest` pointing at nothing."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("first", STATE)
    deleted: list[bool] = []
    rmtree = shutil.rmtree

    def watch(path: Path, **options: Any) -> None:
        deleted.append((tmp_path / "first" / "state.json").is_file())
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watch)
    checkpoints.save("first", STATE)
    assert deleted == [True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest"]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_changed_checkpoint_is_refused(tmp_path: Path, file: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save("first", STATE) / file
    data = path.read_bytes()
    assert_same(checkpoints.load())
    for position in (len(data) // 2, len(data) - 3):
        changed = bytearray(data)
        changed[position] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(CheckpointError, match=f"{file}: damaged or changed"):
            checkpoints.load()
    path.write_bytes(data[:-7])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load()


# Agents and replay buffers as files.


@pytest.mark.parametrize("ending", ["", ".zip", ".safetensors"])
def test_an_agent_loads_by_its_name_with_or_without_an_ending(tmp_path: Path, ending: str) -> None:
    agent = make("sac", critics=3, discount=0.9)
    agent.save(tmp_path / f"agent{ending}")
    for name in ("agent", f"agent{ending or '.safetensors'}"):
        loaded = AGENTS["sac"].load(tmp_path / name)
        assert loaded.settings == agent.settings
        assert loaded.observation_space == agent.observation_space
        assert loaded.action_space == agent.action_space
        for network, value in weights(agent).items():
            assert torch.equal(weights(loaded)[network], value)


def test_a_name_with_dots_is_kept(tmp_path: Path) -> None:
    make("bc").save(tmp_path / "agent-v1.5")
    assert [path.name for path in tmp_path.iterdir()] == ["agent-v1.5.safetensors"]
    AGENTS["bc"].load(tmp_path / "agent-v1.5")


def test_a_replay_buffer_survives_its_file(tmp_path: Path) -> None:
    first, second = make("sac"), make("sac")
    with pytest.raises(CheckpointError, match="no replay buffer yet"):
        first.save_replay_buffer(tmp_path / "replay")
    first.replay_buffer = GrowingReplay(first.layout, 50)
    for seed in range(4):
        first.replay_buffer.add(random_rows(first.layout, 20, seed=seed))
    first.save_replay_buffer(tmp_path / "replay")
    second.load_replay_buffer(tmp_path / "replay")
    assert second.replay_buffer.added == 80
    assert second.replay_buffer.capacity == 50
    assert torch.equal(second.replay_buffer.table[:50], first.replay_buffer.table[:50])
    other = make("sac", spaces=box_spaces(5, 2))
    with pytest.raises(CheckpointError, match="does not fit"):
        other.load_replay_buffer(tmp_path / "replay")


def test_saved_state_is_json_without_surprises(tmp_path: Path) -> None:
    agent = make("iql")
    tensors, state = agent.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert all(tensor.numel() > 0 for tensor in tensors.values())


def test_joined_states_come_apart_again() -> None:
    first = ({"a/b": torch.ones(2)}, {"n": 1})
    second: tuple[Any, Any] = ({"b": torch.zeros(1), "ab": torch.ones(1)}, {})
    joined = join(one=first, on=second)
    assert part(joined, "one") == first
    assert part(joined, "on") == second
