from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rlalign.errors import CheckpointError
from rlalign.layout import Batch, Layout
from rlalign.replay import FixedReplay, GrowingReplay, MixedReplay, RowTransform
from tests.toy_data import random_rows

LAYOUT = Layout(2, 1)


def numbered(start: int, stop: int, layout: Layout = LAYOUT) -> Tensor:
    """Rows that carry their number in every column."""
    return torch.arange(start, stop, dtype=torch.float32).unsqueeze(1).repeat(1, layout.width)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Rows as the losses see them.


def test_rows_are_normalised_rescaled_and_clipped_as_stated() -> None:
    layout = Layout(2, 2, {"mc_returns": 1})
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])
    transform = RowTransform(
        layout,
        mean=mean,
        std=std,
        action_low=torch.tensor([-2.0, 0.0]),
        action_high=torch.tensor([2.0, 10.0]),
        reward_scale=10.0,
        reward_shift=-5.0,
        action_limit=0.9,
    )
    rows = layout.pack(
        observations=[[3.0, -2.0], [1.0, 0.0]],
        actions=[[1.0, 2.5], [-2.0, 10.0]],
        rewards=[0.0, 1.0],
        terminations=[0.0, 1.0],
        next_observations=[[1.0, -1.5], [-1.0, -2.0]],
        mc_returns=[[4.0], [5.0]],
    )
    batch = Batch(transform(rows), layout)
    torch.testing.assert_close(batch.observations, torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(batch.next_observations, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    torch.testing.assert_close(batch.actions, torch.tensor([[0.5, -0.5], [-0.9, 0.9]]))
    # Spec, common 26: AntMaze's r in {0, 1} becomes {-5, 5}, once.
    torch.testing.assert_close(batch.rewards, torch.tensor([-5.0, 5.0]))
    assert batch.terminations.tolist() == [0.0, 1.0]
    assert batch["mc_returns"].tolist() == [4.0, 5.0]


def test_without_anything_to_do_rows_stay_bit_for_bit() -> None:
    rows = random_rows(LAYOUT, 50)
    plain = RowTransform(
        LAYOUT, action_low=torch.full((1,), -1.0), action_high=torch.full((1,), 1.0)
    )
    assert plain.identity
    assert torch.equal(plain(rows.clone()), rows)
    assert not RowTransform(LAYOUT, reward_shift=-1.0).identity


def test_a_drawn_batch_is_transformed_and_the_table_keeps_raw_units() -> None:
    table = random_rows(LAYOUT, 20)
    before = table.clone()
    replay = FixedReplay(table, LAYOUT)
    transform = RowTransform(LAYOUT, reward_scale=3.0, action_limit=0.1)
    first, second = (transform(replay.sample(8, generator(1))) for _ in range(2))
    assert torch.equal(first, second)  # not scaled twice
    assert torch.equal(table, before)
    raw = replay.sample(8, generator(1))
    column = LAYOUT.columns["rewards"]
    torch.testing.assert_close(first[:, column], 3.0 * raw[:, column])


# Fixed replay.


def test_a_fixed_replay_draws_every_row_alike() -> None:
    """False-alarm rate 6e-7 a row: five standard deviations of a binomial count."""
    replay = FixedReplay(numbered(0, 10), LAYOUT)
    assert len(replay) == 10
    draws = replay.sample(50_000, generator())[:, 0].long().bincount(minlength=10)
    deviation = (50_000 * 0.1 * 0.9) ** 0.5
    assert ((draws - 5_000).abs() < 5 * deviation).all()


def test_draws_follow_the_generator() -> None:
    replay = FixedReplay(numbered(0, 1000), LAYOUT)
    assert torch.equal(replay.sample(32, generator(3)), replay.sample(32, generator(3)))
    assert not torch.equal(replay.sample(32, generator(3)), replay.sample(32, generator(4)))


def test_a_table_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[n >= 1, 7\], got \[3, 8\]"):
        FixedReplay(torch.zeros(3, 8), LAYOUT)
    with pytest.raises(ValueError, match="n >= 1"):
        FixedReplay(torch.zeros(0, LAYOUT.width), LAYOUT)


# The ring buffer.


def contents(replay: GrowingReplay) -> list[int]:
    return sorted(replay.table[: len(replay), 0].long().tolist())


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7])
def test_the_ring_buffer_keeps_the_newest_rows(piece: int) -> None:
    replay = GrowingReplay(LAYOUT, capacity=7)
    for start in range(0, 40, piece):
        replay.add(numbered(start, start + piece))
        end = start + piece
        assert len(replay) == min(end, 7)
        assert contents(replay) == list(range(max(0, end - 7), end))
    assert replay.added == end


def test_the_ring_buffer_takes_memory_as_it_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GrowingReplay, "GROWTH", 4)
    replay = GrowingReplay(LAYOUT, capacity=50)
    assert len(replay.table) == 4
    for start in range(0, 75, 3):
        replay.add(numbered(start, start + 3))
        assert contents(replay) == list(range(max(0, start - 47), start + 3))
        assert len(replay.table) <= max(4, 2 * len(replay))
    assert len(replay.table) == 50


def test_draws_from_the_ring_buffer_are_rows_it_holds() -> None:
    replay = GrowingReplay(LAYOUT, capacity=1000)
    with pytest.raises(ValueError, match="empty"):
        replay.sample(1, generator())
    replay.add(numbered(5, 9))
    assert set(replay.sample(200, generator())[:, 0].tolist()) == {5.0, 6.0, 7.0, 8.0}


def test_the_ring_buffer_refuses_more_than_it_can_hold() -> None:
    with pytest.raises(ValueError, match="cannot add 8 rows to a buffer of 7"):
        GrowingReplay(LAYOUT, 7).add(numbered(0, 8))
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        GrowingReplay(LAYOUT, 0)


@pytest.mark.parametrize("filled", [3, 7, 11])
@pytest.mark.parametrize("growth", [2, 65_536])
def test_a_restored_ring_buffer_goes_on_like_the_first(
    filled: int, growth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GrowingReplay, "GROWTH", growth)
    first, second = GrowingReplay(LAYOUT, 7), GrowingReplay(LAYOUT, 7)
    for start in range(filled):
        first.add(numbered(start, start + 1))
    tensors, state = first.state_dict()
    second.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, state)
    for start, replay in itertools.product(range(filled, filled + 9, 3), (first, second)):
        replay.add(numbered(start, start + 3))
    assert first.added == second.added == filled + 9
    assert torch.equal(first.sample(64, generator()), second.sample(64, generator()))


def test_a_ring_buffer_of_another_shape_is_refused() -> None:
    source = GrowingReplay(LAYOUT, 7)
    source.add(numbered(0, 2))
    with pytest.raises(CheckpointError, match="capacity 7"):
        GrowingReplay(LAYOUT, 8).load_state_dict(*source.state_dict())
    with pytest.raises(CheckpointError, match="does not fit"):
        GrowingReplay(Layout(2, 2), 7).load_state_dict(*source.state_dict())


# Mixtures.


def parts(*sizes: int) -> list[FixedReplay]:
    """Sources whose rows carry the part's number."""
    return [
        FixedReplay(torch.full((size, LAYOUT.width), float(part)), LAYOUT)
        for part, size in enumerate(sizes)
    ]


def test_half_and_half_is_exactly_128_of_each_in_every_batch() -> None:
    """Spec, Cal-QL 24."""
    mixture = MixedReplay(parts(1000, 3), [0.5, 0.5])
    assert len(mixture) == 1003
    source = generator()
    for _ in range(20):
        rows = mixture.sample(256, source)
        assert rows[:, 0].tolist() == [0.0] * 128 + [1.0] * 128


@pytest.mark.parametrize(
    ("fractions", "batch_size"),
    [
        ([0.25, 0.75], 256),
        ([1 / 3, 1 / 3, 1 / 3], 256),
        ([0.1] * 10, 7),
        ([1.0, 0.0], 5),
        ([0.0, 1.0], 5),
    ],
)
def test_fractions_that_do_not_divide_the_batch_still_fill_it(
    fractions: list[float], batch_size: int
) -> None:
    mixture = MixedReplay(parts(*[5] * len(fractions)), fractions)
    drawn = mixture.sample(batch_size, generator())[:, 0].long()
    found = drawn.bincount(minlength=len(fractions)).tolist()
    assert sum(found) == batch_size
    assert all(abs(f - w * batch_size) < 1 for f, w in zip(found, fractions, strict=True))


def test_proportional_parts_appear_by_their_sizes() -> None:
    """False-alarm rate 6e-7 a part: five standard deviations of a binomial count."""
    sizes, draws = (300, 0, 100, 600), 60_000
    replays: list = parts(300, 1, 100, 600)
    replays[1] = GrowingReplay(LAYOUT, 10)
    mixture = MixedReplay(replays, None)
    source = generator()
    rows = torch.cat([mixture.sample(250, source) for _ in range(draws // 250)])
    found = rows[:, 0].long().bincount(minlength=4)
    for size, count in zip(sizes, found.tolist(), strict=True):
        share = size / 1000
        assert abs(count - share * draws) <= 5 * (draws * share * (1 - share)) ** 0.5


def test_proportional_draws_are_as_from_one_buffer() -> None:
    """Every row of the union is as likely; false-alarm rate 6e-7 a row (five deviations)."""
    mixture = MixedReplay(
        [FixedReplay(numbered(0, 3), LAYOUT), FixedReplay(numbered(3, 10), LAYOUT)], None
    )
    rows = mixture.sample(50_000, generator())[:, 0].long().bincount(minlength=10)
    assert ((rows - 5_000).abs() < 5 * (50_000 * 0.1 * 0.9) ** 0.5).all()


@pytest.mark.parametrize("fractions", [None, [0.5, 0.5]])
def test_an_empty_part_gives_its_share_to_the_other(fractions: list[float] | None) -> None:
    online = GrowingReplay(LAYOUT, 10)
    mixture = MixedReplay([FixedReplay(numbered(0, 4), LAYOUT), online], fractions)
    assert mixture.sample(64, generator())[:, 0].max() < 4
    online.add(numbered(100, 110))
    assert mixture.sample(64, generator())[:, 0].max() >= 100


def test_an_empty_part_of_three_gives_its_share_to_both_others() -> None:
    online = GrowingReplay(LAYOUT, 10)
    mixture = MixedReplay([*parts(4, 4), online], [0.25, 0.25, 0.5])
    assert mixture.sample(64, generator())[:, 0].long().bincount().tolist() == [32, 32]


def test_the_only_filled_part_counts_even_at_a_share_of_nothing() -> None:
    mixture = MixedReplay([*parts(4), GrowingReplay(LAYOUT, 10)], [0.0, 1.0])
    assert mixture.sample(8, generator())[:, 0].tolist() == [0.0] * 8


def test_impossible_mixtures_are_refused() -> None:
    with pytest.raises(ValueError, match="every source of the mixture is empty"):
        MixedReplay([GrowingReplay(LAYOUT, 3), GrowingReplay(LAYOUT, 3)], None).sample(
            4, generator()
        )
    with pytest.raises(ValueError, match="one layout"):
        MixedReplay([*parts(3), GrowingReplay(Layout(3, 1), 3)], None)
    for fractions in ([0.5], [0.5, 0.6], [-0.5, 1.5]):
        with pytest.raises(ValueError, match="one per source and sum to 1"):
            MixedReplay(parts(3, 3), fractions)
