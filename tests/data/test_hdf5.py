"""D4RL's HDF5 layouts become the same transitions as D4RL's own reading gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rlalign.data.d4rl import task
from rlalign.data.dataset import check_spaces, load_dataset
from rlalign.data.hdf5 import read_hdf5
from rlalign.errors import DatasetError, SettingsError

Arrays = dict[str, Any]


def write(path: Path, arrays: Arrays) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file.create_dataset(key, data=values)
    return path


def episodes(
    lengths: list[int], terminated: list[bool], *, obs: int = 3, act: int = 2, seed: int = 0
) -> Arrays:
    """Make a file's arrays with known next observations and flags."""
    random = np.random.default_rng(seed)
    chains = [random.normal(size=(n + 1, obs)).astype(np.float32) for n in lengths]
    count = sum(lengths)
    ends = np.cumsum(lengths) - 1
    terminals, timeouts = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    terminals[ends], timeouts[ends] = terminated, ~np.asarray(terminated)
    return {
        "observations": np.concatenate([chain[:-1] for chain in chains]),
        "next_observations": np.concatenate([chain[1:] for chain in chains]),
        "actions": random.uniform(-1, 1, size=(count, act)).astype(np.float32),
        "rewards": random.normal(size=count).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def d4rl_reading(arrays: Arrays, limit: int) -> Arrays:
    """D4RL's rule, row by row: the next row is the successor, time-limit rows are left out."""
    rows, step = [], 0
    for row in range(len(arrays["rewards"]) - 1):
        cut = arrays["timeouts"][row] if "timeouts" in arrays else step == limit - 1
        step = 0 if cut or arrays["terminals"][row] else step + 1
        if not cut:
            rows.append(row)
    picked = np.array(rows)
    return {
        "observations": arrays["observations"][picked],
        "actions": arrays["actions"][picked],
        "rewards": arrays["rewards"][picked],
        "terminals": arrays["terminals"][picked],
        "next_observations": arrays["observations"][picked + 1],
    }


@pytest.mark.parametrize("with_timeouts", [True, False])
def test_rebuilt_transitions_equal_d4rl_reading(tmp_path: Path, with_timeouts: bool) -> None:
    arrays = episodes([10, 4, 10, 10, 7], [False, True, False, False, False])
    del arrays["next_observations"]
    if not with_timeouts:
        del arrays["timeouts"]
    expected = d4rl_reading(arrays, limit=10)

    path = write(tmp_path / "v0.hdf5", arrays)
    dataset = read_hdf5(path, horizon=None if with_timeouts else 10)

    assert len(dataset) == len(expected["rewards"]) == 9 + 4 + 9 + 9 + 6
    for column in ("observations", "actions", "rewards"):
        assert np.array_equal(getattr(dataset, column), expected[column])
    assert np.array_equal(dataset.terminations == 1.0, expected["terminals"])
    going_on = ~expected["terminals"]
    assert np.array_equal(
        dataset.next_observations[going_on], expected["next_observations"][going_on]
    )
    assert dataset.ends.tolist() == [9, 13, 22, 31, 37]
    assert dataset.truncated.tolist() == [True, False, True, True, True]


def test_given_next_observations_keep_every_row(tmp_path: Path) -> None:
    arrays = episodes([5, 6, 4], [False, True, False])
    dataset = read_hdf5(write(tmp_path / "v2.hdf5", arrays))
    assert len(dataset) == 15
    assert np.array_equal(dataset.next_observations, arrays["next_observations"])
    assert dataset.ends.tolist() == [5, 11, 15]
    assert dataset.terminations.sum() == 1.0  # a time limit is never a terminal


def test_discontinuities_split_trajectories_that_no_flag_ends(tmp_path: Path) -> None:
    arrays = episodes([5, 6, 4], [False, True, False])
    del arrays["timeouts"]
    dataset = read_hdf5(write(tmp_path / "unflagged.hdf5", arrays))
    assert dataset.ends.tolist() == [5, 11, 15]
    assert dataset.truncated.tolist() == [True, False, True]


def test_discontinuity_between_blocks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = episodes([4, 4, 5], [False, False, False])
    whole = read_hdf5(write(tmp_path / "whole.hdf5", arrays))
    monkeypatch.setattr("rlalign.data.packing.BLOCK_BYTES", 4 * whole.layout.width * 4)
    del arrays["timeouts"]
    blocks = read_hdf5(write(tmp_path / "blocks.hdf5", arrays))
    assert blocks.ends.tolist() == [4, 8, 13]
    assert blocks.fingerprint == whole.fingerprint


def test_maze_without_timeout_flag_is_cut_where_the_ant_jumps(tmp_path: Path) -> None:
    arrays = episodes([6, 6], [False, False], obs=29, act=8)
    del arrays["next_observations"]
    arrays["observations"][:, :2] = 0.1 * np.arange(12)[:, None]
    arrays["observations"][6:, :2] += 8.0
    arrays["timeouts"][:] = False
    path = write(tmp_path / "maze.hdf5", arrays)
    assert read_hdf5(path).ends.tolist() == [11]
    maze = read_hdf5(path, task=task("antmaze-umaze-v0"))
    assert maze.ends.tolist() == [5, 10]
    assert maze.environment == "antmaze-umaze-v0"


def test_kitchen_layout_with_float_flags_and_columns_is_read(tmp_path: Path) -> None:
    arrays = episodes([8, 5], [True, True], obs=60, act=9)
    expected = arrays["rewards"].copy()
    del arrays["next_observations"], arrays["timeouts"]
    arrays["terminals"] = arrays["terminals"].astype(np.float32)[:, None]
    arrays["rewards"] = arrays["rewards"].astype(np.float64)[:, None]
    dataset = read_hdf5(write(tmp_path / "kitchen.hdf5", arrays), task=task("kitchen-complete-v0"))
    assert dataset.ends.tolist() == [8, 13]
    assert np.array_equal(dataset.rewards, expected)
    # A terminal row's successor is unknown and unused; its own observation stands in.
    assert np.array_equal(dataset.next_observations[7], dataset.observations[7])


def test_file_named_as_d4rls_own_is_known(tmp_path: Path) -> None:
    arrays = episodes([1000, 1000, 500], [False, False, False], obs=17, act=6)
    del arrays["timeouts"], arrays["next_observations"]
    dataset = load_dataset(write(tmp_path / "halfcheetah_medium.hdf5", arrays))
    assert dataset.environment == "HalfCheetah-v5"
    assert dataset.reference == (-280.178953, 12135.0)
    assert dataset.ends.tolist() == [999, 1998, 2497]
    assert dataset.action_high is not None
    assert dataset.action_high.tolist() == [1.0] * 6


def replaced(**changes: Any) -> Arrays:
    arrays = episodes([5, 6], [False, True])
    for key, value in changes.items():
        if value is None:
            del arrays[key]
        else:
            arrays[key] = value
    return arrays


def spoiled(key: str, row: int, value: float) -> Arrays:
    arrays = episodes([5, 6], [False, True])
    arrays[key][row] = value
    return arrays


BAD: list[tuple[Arrays, str]] = [
    (replaced(actions=None), "missing 'actions'"),
    (replaced(terminals=None), "missing 'terminals'"),
    (replaced(actions=None, rewards=None), "missing 'actions', 'rewards'"),
    (replaced(observations=np.zeros((11, 3), dtype=np.int64)), "'observations' has dtype int64"),
    (replaced(actions=np.full((11, 2), b"a")), "'actions' has dtype"),
    (replaced(terminals=np.full(11, b"x")), "'terminals' has dtype"),
    (replaced(rewards=np.zeros(10)), "'rewards' has 10 rows, 'observations' 11"),
    (replaced(rewards=np.zeros((11, 2))), "'rewards' has shape"),
    (replaced(actions=np.zeros(11)), "'actions' has shape"),
    (replaced(next_observations=np.zeros((11, 4))), "'next_observations' has shape"),
    (replaced(timeouts=np.full(11, 2)), "'timeouts' is 2 in row 0"),
    (spoiled("observations", 7, np.nan), "'observations' holds NaN or infinity, first in row 7"),
    (spoiled("rewards", 3, np.inf), "'rewards' holds NaN or infinity, first in row 3"),
    (spoiled("next_observations", 10, -np.inf), "'next_observations' holds NaN"),
    ({key: values[:0] for key, values in replaced().items()}, "the dataset is empty"),
    (
        replaced(timeouts=None, next_observations=None, terminals=np.zeros(11, dtype=bool)),
        "nothing tells where episodes end",
    ),
    (replaced(rewards=np.full(11, 1e300)), "'rewards' holds NaN or infinity, first in row 0"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_file_is_refused_in_one_sentence(tmp_path: Path, arrays: Arrays, message: str) -> None:
    path = write(tmp_path / "bad.hdf5", arrays)
    with pytest.raises(DatasetError) as caught:
        load_dataset(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.hdf5", episodes([500], [True]))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match="truncated or damaged"):
        load_dataset(path)


def test_damage_inside_compressed_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flipped.hdf5"
    with h5py.File(path, "w") as file:
        for key, values in episodes([500, 400], [True, False]).items():
            file.create_dataset(key, data=values, compression="gzip")
        where = file["actions"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[where.byte_offset + where.size // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="damaged or truncated"):
        load_dataset(path)


def test_what_rlalign_wrote_beside_the_arrays_is_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", episodes([5, 6], [False, True]))
    for text in ('{"reference": [1]}', "[]", "{", '{"action_low": [1, 2, 3]}'):
        with h5py.File(path, "r+") as file:
            file.attrs["rlalign"] = text
        with pytest.raises(DatasetError, match="its attribute 'rlalign' is damaged"):
            load_dataset(path)


def test_extra_column_may_not_shadow_a_standard_one(tmp_path: Path) -> None:
    arrays = episodes([5, 6], [False, True])
    path = write(tmp_path / "a.hdf5", {**arrays, "extras/actions": np.zeros((11, 1))})
    with pytest.raises(DatasetError, match="'extras/actions' is not an array of its own name"):
        load_dataset(path)


def test_horizon_can_be_given_for_a_file_without_timeouts(tmp_path: Path) -> None:
    arrays = episodes([10, 10, 4], [False, False, False])
    del arrays["timeouts"], arrays["next_observations"]
    path = write(tmp_path / "plain.hdf5", arrays)
    assert load_dataset(path, horizon=10).ends.tolist() == [9, 18, 21]


@pytest.mark.parametrize("horizon", [0, -5, 2.5, "10", True])
def test_a_horizon_is_a_whole_number_of_at_least_1(tmp_path: Path, horizon: Any) -> None:
    path = write(tmp_path / "a.hdf5", episodes([5, 6], [False, True]))
    with pytest.raises(SettingsError, match=r"^horizon must be a whole number of at least 1"):
        load_dataset(path, horizon=horizon)


def test_horizon_cuts_a_file_with_next_observations_and_keeps_all_its_rows(tmp_path: Path) -> None:
    arrays = episodes([10, 4, 16], [False, True, False])
    for start in (0, 14):  # no observation tells that an episode begins in rows 10 and 24
        arrays["next_observations"][start + 9] = arrays["observations"][start + 10]
    del arrays["timeouts"]
    path = write(tmp_path / "plain.hdf5", arrays)
    assert load_dataset(path).ends.tolist() == [14, 30]
    cut = load_dataset(path, horizon=10)
    assert cut.ends.tolist() == [10, 14, 24, 30]
    assert cut.truncated.tolist() == [True, False, True, True]
    assert np.array_equal(cut.next_observations, arrays["next_observations"])


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.hdf5"
    path.write_text("<html>404</html>")
    with pytest.raises(DatasetError, match="not an HDF5 file"):
        load_dataset(path)


def test_missing_file_and_unknown_name_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no such file"):
        load_dataset(tmp_path / "nowhere.hdf5")
    with pytest.raises(DatasetError, match="name begins with local/"):
        load_dataset("hopper-medium-v2")
    with pytest.raises(DatasetError, match="did you mean 'hopper-medium"):
        load_dataset("d4rl/hopper-medum-v2")


def test_folder_is_said_to_be_one(tmp_path: Path) -> None:
    for name in ("folder", "folder.hdf5"):
        (tmp_path / name).mkdir()
        with pytest.raises(DatasetError, match=f"{name}: this is a folder, not an HDF5 file"):
            load_dataset(tmp_path / name)


@pytest.mark.parametrize("name", ["local/hopper-medum-v0", "d4rl/hopper-medum-v2"])
def test_folder_does_not_hide_a_dataset_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(parents=True)
    with pytest.raises(DatasetError, match="did you mean 'hopper-medium"):
        load_dataset(name)


def test_dataset_of_another_environment_is_refused(tmp_path: Path) -> None:
    import gymnasium

    dataset = read_hdf5(write(tmp_path / "a.hdf5", episodes([5, 6], [False, True])))
    box = gymnasium.spaces.Box
    check_spaces(dataset, box(-1, 1, (3,)), box(-1, 1, (2,)))
    with pytest.raises(DatasetError, match="action size 2, but the environment's is 6"):
        check_spaces(dataset, box(-1, 1, (3,)), box(-1, 1, (6,)))
    with pytest.raises(DatasetError, match="observation size 3, but the environment's is 17"):
        check_spaces(dataset, box(-1, 1, (17,)), box(-1, 1, (2,)))
