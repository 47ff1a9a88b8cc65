"""Returns, statistics, extra columns and saving of a dataset."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from rlalign.data.dataset import Dataset, load_dataset
from rlalign.errors import DatasetError
from rlalign.layout import Layout


def make_dataset(lengths: tuple[int, ...] = (5, 3, 4), seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    layout = Layout(3, 2)
    table = torch.randn(sum(lengths), layout.width, generator=generator)
    ends = np.cumsum(lengths)
    dataset = Dataset(
        table=table,
        layout=layout,
        ends=ends,
        name="made",
        environment="Hopper-v5",
        action_low=np.array([-1.0, -2.0], dtype=np.float32),
        action_high=np.array([1.0, 2.0], dtype=np.float32),
        reference=(-20.0, 180.0),
        metadata={"seed": seed},
    )
    dataset.terminations[:] = 0.0
    dataset.terminations[ends[1] - 1] = 1.0
    return dataset


def test_views_share_memory_with_the_table() -> None:
    dataset = make_dataset()
    dataset.rewards[2] = 7.0
    assert dataset.table[2, dataset.layout.columns["rewards"]] == 7.0


def test_returns_and_trajectories_agree() -> None:
    dataset = make_dataset()
    parts = list(dataset.trajectories())
    assert [len(part) for part in parts] == [5, 3, 4]
    assert [part.terminated for part in parts] == [False, True, False]
    totals = dataset.episode_returns()
    assert totals == pytest.approx([part.rewards.sum() for part in parts], abs=1e-5)
    assert dataset.return_range() == pytest.approx(totals.max() - totals.min())


def test_normalized_score_is_0_and_100_at_the_references() -> None:
    dataset = make_dataset()
    assert dataset.normalized_score(np.array([-20.0, 80.0, 180.0])).tolist() == [0.0, 50.0, 100.0]
    dataset.reference = None
    with pytest.raises(DatasetError, match="no reference scores"):
        dataset.normalized_score(1.0)


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_to_go_follow_bellmans_recursion(discount: float) -> None:
    dataset = make_dataset((6, 1, 4, 9))
    result = dataset.returns_to_go(discount)
    for part in dataset.trajectories():
        expected = 0.0
        for row in reversed(range(part.start, part.end)):
            expected = float(dataset.rewards[row]) + discount * expected
            assert result[row] == pytest.approx(expected, abs=1e-5)


def test_statistics_are_stable_for_a_large_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlalign.data.dataset.BLOCK", 5)
    dataset = make_dataset()
    dataset.observations[:] += 10_000.0
    mean, std = dataset.observation_statistics()
    wanted = dataset.observations.astype(np.float64)
    assert mean == pytest.approx(wanted.mean(axis=0), rel=1e-12)
    assert std == pytest.approx(wanted.std(axis=0), rel=1e-9)


def test_extras_become_columns_and_survive_saving(tmp_path: Path) -> None:
    dataset = make_dataset()
    extra = np.arange(24, dtype=np.float32).reshape(12, 2)
    wider = dataset.with_extras({"goal": extra, "mc_returns": dataset.returns_to_go(0.99)})
    assert wider.layout.extras == {"goal": 2, "mc_returns": 1}
    assert np.array_equal(wider.column("goal"), extra)
    assert np.array_equal(wider.next_observations, dataset.next_observations)
    again = load_dataset(wider.save(tmp_path / "wide.hdf5"))
    assert set(again.layout.extras) == {"goal", "mc_returns"}
    assert np.array_equal(again.column("goal"), extra)
    with pytest.raises(DatasetError, match="'rewards' must be new"):
        dataset.with_extras({"rewards": np.zeros(12)})


def test_extras_keep_their_order_and_no_fingerprint_of_fewer_columns(tmp_path: Path) -> None:
    dataset = make_dataset()
    for part in dataset.trajectories():
        part.next_observations[:-1] = part.observations[1:]
    loaded = load_dataset(dataset.save(tmp_path / "a.hdf5"))
    wider = loaded.with_extras({"z": np.arange(12), "a": np.ones((12, 2))})
    assert "stored_fingerprint" not in wider.metadata
    assert "stored_fingerprint" in loaded.metadata
    again = load_dataset(wider.save(tmp_path / "b.hdf5"))
    assert list(again.layout.extras) == ["z", "a"]
    assert again.metadata["stored_fingerprint"] == again.fingerprint == wider.fingerprint


def test_saved_dataset_loads_as_it_was(tmp_path: Path) -> None:
    dataset = make_dataset()
    # Neighbouring rows of a trajectory must follow each other, or they are read as cuts.
    for part in dataset.trajectories():
        part.next_observations[:-1] = part.observations[1:]
    again = load_dataset(dataset.save(tmp_path / "new" / "a.hdf5"))
    assert again.fingerprint == dataset.fingerprint == again.metadata["stored_fingerprint"]
    assert again.ends.tolist() == dataset.ends.tolist()
    assert again.environment == "Hopper-v5"
    assert again.reference == (-20.0, 180.0)
    assert again.action_low is not None
    assert again.action_low.tolist() == [-1.0, -2.0]
    assert again.metadata["seed"] == 0
    with h5py.File(tmp_path / "new" / "a.hdf5") as file:
        assert file["terminals"].dtype == file["timeouts"].dtype == bool
        assert np.flatnonzero(file["timeouts"][:]).tolist() == [4, 11]


def test_data_changed_after_its_fingerprint_was_asked_for_is_saved_with_its_own(
    tmp_path: Path,
) -> None:
    dataset = make_dataset()
    before = dataset.fingerprint
    dataset.rewards[:] -= 1.0
    for part in dataset.trajectories():
        part.next_observations[:-1] = part.observations[1:]
    again = load_dataset(dataset.save(tmp_path / "a.hdf5"))
    assert again.metadata["stored_fingerprint"] == again.fingerprint == dataset.fingerprint
    assert again.fingerprint != before


def test_home_is_where_a_dataset_is_saved_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert make_dataset().save("~/a.hdf5") == tmp_path / "home" / "a.hdf5"
    assert len(load_dataset("~/a.hdf5")) == 12
    assert [found.name for found in tmp_path.iterdir()] == ["home"]


def test_fingerprint_follows_every_part() -> None:
    dataset = make_dataset()
    changed = make_dataset()
    assert dataset.fingerprint == changed.fingerprint
    changed = make_dataset()
    changed.table[3, 1] += 1.0
    moved = Dataset(dataset.table, dataset.layout, np.array([4, 8, 12]), "made")
    assert len({dataset.fingerprint, changed.fingerprint, moved.fingerprint}) == 3


def test_ends_must_fit_the_table() -> None:
    dataset = make_dataset()
    for ends in ([5, 8], [5, 5, 12], [8, 5, 12], []):
        with pytest.raises(DatasetError, match="ends must ascend"):
            Dataset(dataset.table, dataset.layout, np.array(ends), "bad")
    with pytest.raises(DatasetError, match="empty"):
        Dataset(dataset.table[:0], dataset.layout, np.array([]), "bad")


def test_full_disk_is_reported_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_dataset().save(tmp_path / "a.hdf5")
    before = path.read_bytes()
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("rlalign.data.saving.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DatasetError, match="not enough disk space"):
        make_dataset(seed=1).save(path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["a.hdf5"]


def test_write_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file size makes the system refuse bytes just as a full disk does."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2]); from test_dataset import make_dataset\n"
        "from rlalign.errors import DatasetError\n"
        "dataset = make_dataset((40_000, 1))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "try: dataset.save(Path(sys.argv[1]) / 'a.hdf5')\n"
        "except DatasetError as error: print(error)\n"
    )
    assert resource.RLIMIT_FSIZE  # not on every system; the test needs it
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "a.hdf5: the file could not be written (File too large)" in done.stdout, done
    assert len(done.stdout.strip().splitlines()) == 1
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_saved_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = make_dataset().save(tmp_path / "a.hdf5")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_read_only_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("rlalign.data.saving.tempfile.mkstemp", refuse)
    with pytest.raises(DatasetError, match=r"could not be written \(Read-only file system\)"):
        make_dataset().save(tmp_path / "a.hdf5")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="could not be written"):
        make_dataset().save(tmp_path / "file" / "a.hdf5")
