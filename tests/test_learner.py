from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlalign.errors import CheckpointError, TrainingError
from rlalign.layout import Batch, Layout
from rlalign.learner import Learner, Metrics, Noise, Target, Update
from rlalign.optim import AdamSettings
from tests.toy_data import random_rows

LAYOUT = Layout(3, 2)


class Regression:
    """Two linear networks: one learns the reward, the other learns the first one's output."""

    def __init__(self) -> None:
        self.trained: dict[str, set[str]] = {}
        self.noise: list[Mapping[str, Tensor]] = []

    def reward_loss(self, nets: Any, batch: Batch) -> tuple[Tensor, Metrics]:
        self._note("reward_loss", nets)
        self.noise.append(dict(batch.noise))
        value = nets.first(batch.observations)[:, 0] + 0.0 * nets.second(batch.observations)[:, 0]
        return (value - batch.rewards).square().mean(), {"value": value}

    def copy_loss(self, nets: Any, batch: Batch) -> tuple[Tensor, Metrics]:
        self._note("copy_loss", nets)
        value = nets.second(batch.observations)[:, 0]
        return (value - nets.first(batch.observations)[:, 0]).square().mean(), {}

    def _note(self, loss: str, nets: Any) -> None:
        self.trained[loss] = {
            name
            for name, net in nets.named_children()
            if any(p.requires_grad for p in net.parameters())
        }


FIRST = Update(("first",), "reward_loss")
SECOND = Update(("second",), "copy_loss")


def make(
    *updates: Update,
    targets: Mapping[str, Target] | None = None,
    noise: Mapping[str, Noise] | None = None,
    losses: Any = None,
    seed: int = 0,
) -> Learner:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = {"first": nn.Linear(3, 1), "second": nn.Linear(3, 1)}
    return Learner(
        networks,
        targets=targets or {},
        updates=updates or (FIRST, SECOND),
        losses=losses or Regression(),
        noise=noise or {},
        layout=LAYOUT,
        generator=torch.Generator().manual_seed(seed),
    )


def nets(learner: Learner) -> Any:
    return learner.nets


def rows(seed: int = 0, count: int = 16) -> Tensor:
    return random_rows(LAYOUT, count, seed=seed)


def snapshot(learner: Learner) -> dict[str, Tensor]:
    return {name: flat.data.clone() for name, flat in learner.flat.items()}


def changed(learner: Learner, before: Mapping[str, Tensor]) -> set[str]:
    return {n for n, flat in learner.flat.items() if not torch.equal(flat.data, before[n])}


@pytest.mark.parametrize("offset", [0, 2])
def test_updates_run_on_their_cadence(offset: int) -> None:
    slow = Update(("second",), "copy_loss", every=3, offset=offset)
    learner = make(FIRST, slow)
    moved = []
    for step in range(7):
        before = snapshot(learner)
        learner.step(rows(step))
        moved.append(changed(learner, before))
    both, one = {"first", "second"}, {"first"}
    assert moved == [both if step % 3 == offset else one for step in range(7)]
    assert learner.step_count == 7
    assert float(learner.optimizers["second"].steps) == (3 if offset == 0 else 2)


def test_updates_run_in_their_order_each_from_the_one_before() -> None:
    """The second loss sees the first network as the first update has left it."""
    seen: list[float] = []

    class Watching(Regression):
        def copy_loss(self, nets: Any, batch: Batch) -> tuple[Tensor, Metrics]:
            seen.append(float(nets.first.bias.detach()))
            return super().copy_loss(nets, batch)

    learner = make(FIRST, SECOND, losses=Watching())
    start = float(nets(learner).first.bias)
    learner.step(rows())
    end = float(nets(learner).first.bias)
    assert seen == [end]
    assert end != start


@pytest.mark.parametrize("rate", [0.005, 0.3, 1.0])
def test_targets_move_by_the_rate_and_only_when_due(rate: float) -> None:
    learner = make(FIRST, SECOND, targets={"slow": Target("first", rate, every=2)})
    assert torch.equal(learner.flat["slow"].data, learner.flat["first"].data)
    for step in range(6):
        before = snapshot(learner)
        learner.step(rows(step))
        after = snapshot(learner)
        if step % 2:
            assert torch.equal(after["slow"], before["slow"])
        else:
            expected = before["slow"] + rate * (after["first"] - before["slow"])
            torch.testing.assert_close(after["slow"], expected)
            assert not torch.equal(after["slow"], before["slow"])
            if rate == 1.0:  # spec, common 27
                assert torch.equal(after["slow"], after["first"])


def test_only_the_networks_of_an_update_get_gradients() -> None:
    losses = Regression()
    learner = make(losses=losses, targets={"slow": Target("first")})
    learner.step(rows())
    assert losses.trained == {"reward_loss": {"first"}, "copy_loss": {"second"}}
    assert not any(p.requires_grad for p in learner.nets.parameters())
    assert learner.flat["slow"].grad.abs().max() == 0

    # `first` also enters the second loss, and holds the gradient of its own loss alone.
    learner = make(FIRST, losses=losses)
    learner.step(rows())
    alone = learner.flat["first"].grad.clone()
    both = make(FIRST, SECOND, losses=losses)
    both.step(rows())
    assert torch.equal(both.flat["first"].grad, alone)
    assert alone.abs().min() > 0


def test_networks_of_one_update_may_learn_at_different_rates() -> None:
    """Adam's first step is the rate itself, whatever the gradient."""

    class Joint(Regression):
        def joint_loss(self, nets: Any, batch: Batch) -> tuple[Tensor, Metrics]:
            value = nets.first(batch.observations) + nets.second(batch.observations)
            return (value[:, 0] - batch.rewards).square().mean(), {}

    rates = {"first": AdamSettings(1e-3), "second": AdamSettings(1e-2)}
    learner = make(Update(("first", "second"), "joint_loss", rates), losses=Joint())
    before = snapshot(learner)
    learner.step(rows())
    for name, settings in rates.items():
        step = (learner.flat[name].data - before[name]).abs()
        torch.testing.assert_close(step, torch.full_like(step, settings.learning_rate))


def test_a_cosine_schedule_ends_at_zero_at_the_horizon_and_stays_there() -> None:
    """Not periodic: CORL's schedule climbs back after the horizon (spec, IQL A.8)."""
    scheduled = Update(("first",), "reward_loss", AdamSettings(1e-2), schedule="cosine")
    learner = make(scheduled, SECOND)
    learner.step(rows())  # before any horizon the rate is constant
    assert float(learner.optimizers["first"].learning_rate) == pytest.approx(1e-2)
    learner.set_horizon(10)
    for step in range(15):
        before = snapshot(learner)
        learner.step(rows(step))
        expected = 1e-2 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / 10)))
        rate = float(learner.optimizers["first"].learning_rate)
        assert rate == pytest.approx(expected, abs=1e-9)
        assert float(learner.optimizers["second"].learning_rate) == pytest.approx(3e-4)
        assert changed(learner, before) == ({"first", "second"} if step < 10 else {"second"})
    learner.set_horizon(None)
    before = snapshot(learner)
    learner.step(rows())
    assert float(learner.optimizers["first"].learning_rate) == pytest.approx(1e-2)
    assert changed(learner, before) == {"first", "second"}


def test_a_horizon_of_no_steps_leaves_the_rates_alone() -> None:
    scheduled = Update(("first",), "reward_loss", AdamSettings(1e-2), schedule="cosine")
    learner = make(scheduled)
    learner.set_horizon(0)
    learner.step(rows())
    assert float(learner.optimizers["first"].learning_rate) == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_its_step(value: float) -> None:
    class Failing(Regression):
        def copy_loss(self, nets: Any, batch: Batch) -> tuple[Tensor, Metrics]:
            loss, metrics = super().copy_loss(nets, batch)
            return loss * (value if learner.step_count == 2 else 1.0), metrics

    learner = make(losses=Failing())
    learner.step(rows(0))
    learner.step(rows(1))
    before = snapshot(learner)
    moments = learner.optimizers["second"].first_moment.clone()
    with pytest.raises(TrainingError, match=f"copy_loss became {value} at update 3"):
        learner.step(rows(2))
    assert changed(learner, before) == {"first"}  # whose own loss was finite
    assert torch.equal(learner.optimizers["second"].first_moment, moments)
    assert not any(p.requires_grad for p in learner.nets.parameters())


def test_rows_that_are_not_finite_leave_everything_as_before() -> None:
    learner = make(targets={"slow": Target("first", 0.5)})
    before = snapshot(learner)
    bad = rows()
    bad[3, 0] = float("nan")
    with pytest.raises(TrainingError, match="reward_loss became nan at update 1"):
        learner.step(bad)
    assert changed(learner, before) == set()


def test_noise_is_reproducible_and_of_the_stated_kinds() -> None:
    """False-alarm rate 6e-7 a moment: five standard deviations."""
    wanted = {
        "action": Noise((2,)),
        "uniform": Noise((4,), "uniform"),
        "samples": Noise((5, 2)),
        "common": Noise((40, 50), "uniform", shared=True),
    }
    first, second, other = (make(noise=wanted, seed=seed) for seed in (0, 0, 1))
    draws = [learner.draw_noise(3000) for learner in (first, second, other)]
    shapes = {name: tuple(value.shape) for name, value in draws[0].items()}
    per_row = {"action": (3000, 2), "uniform": (3000, 4), "samples": (3000, 5, 2)}
    assert shapes == {**per_row, "common": (40, 50)}
    for name in wanted:
        assert torch.equal(draws[0][name], draws[1][name])
        assert not torch.equal(draws[0][name], draws[2][name])
    assert not torch.equal(draws[0]["action"], first.draw_noise(3000)["action"])
    for name in ("uniform", "common"):
        assert -1 <= draws[0][name].min() < -0.99
        assert 0.99 < draws[0][name].max() <= 1
    third = 1 / 3
    for name, variance in (("action", 1), ("samples", 1), ("uniform", third), ("common", third)):
        value = draws[0][name]
        assert value.mean().abs() < 5 * (variance / value.numel()) ** 0.5
        assert value.var().item() == pytest.approx(variance, rel=5 * (2 / value.numel()) ** 0.5)
    # Independent: no two parts of the block are the same numbers.
    assert (draws[0]["action"] - draws[0]["samples"][:, 0]).abs().min(0).values.max() > 0


def test_losses_of_one_step_share_its_noise_and_the_next_step_has_its_own() -> None:
    losses = Regression()
    learner = make(losses=losses, noise={"action": Noise((2,))})
    learner.step(rows())
    learner.step(rows())
    assert not torch.equal(losses.noise[0]["action"], losses.noise[1]["action"])


def test_a_restored_learner_goes_on_bit_for_bit() -> None:
    class Noisy(Regression):
        def reward_loss(self, nets: Any, batch: Batch) -> tuple[Tensor, Metrics]:
            loss, metrics = super().reward_loss(nets, batch)
            shaken = nets.first(batch.observations + batch.noise["shake"])
            return loss + shaken.square().mean(), metrics

    def fresh(seed: int) -> Learner:
        updates = (Update(("first",), "reward_loss", schedule="cosine"), SECOND)
        return make(
            *updates,
            targets={"slow": Target("first", 0.1, every=2)},
            noise={"shake": Noise((3,))},
            losses=Noisy(),
            seed=seed,
        )

    whole = fresh(0)
    whole.set_horizon(20)
    for step in range(7):
        whole.step(rows(step))
    tensors, state = whole.state_dict()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    middle = snapshot(whole)
    rest = fresh(1)
    rest.load_state_dict(tensors, state)
    for step in range(7, 15):
        whole.step(rows(step))
        rest.step(rows(step))
    assert changed(rest, snapshot(whole)) == set()
    assert changed(rest, middle) == {"first", "second", "slow"}
    assert rest.step_count == whole.step_count == 15


def test_state_of_other_networks_is_refused() -> None:
    learner = make()
    tensors, state = make(targets={"slow": Target("first")}).state_dict()
    with pytest.raises(CheckpointError, match="networks/slow differs"):
        learner.load_state_dict(tensors, state)
    tensors, state = make().state_dict()
    tensors["networks/first"] = torch.zeros(9)
    with pytest.raises(CheckpointError, match=r"networks/first has shape \[9\].*has \[4\]"):
        learner.load_state_dict(tensors, state)


def test_gradients_are_clipped_to_the_stated_norm() -> None:
    """Adam hides a gradient's scale, its first moment after one step does not: 0.1 gradient."""
    moments = {}
    for limit in (None, 0.01):
        learner = make(Update(("first",), "reward_loss", max_grad_norm=limit))
        learner.step(rows())
        moments[limit] = learner.optimizers["first"].first_moment
    assert moments[None].norm() > 0.1 * 0.01 * 10
    torch.testing.assert_close(
        moments[0.01], moments[None] * (0.1 * 0.01 / moments[None].norm()), rtol=1e-3, atol=0
    )


def test_metrics_are_means_of_the_latest_step() -> None:
    learner = make()
    before = nets(learner).first(rows()[:, :3]).mean()
    learner.step(rows())
    metrics = learner.metrics()
    assert set(metrics) == {"reward_loss", "copy_loss", "value"}
    assert metrics["value"] == pytest.approx(float(before), abs=1e-6)


def test_an_update_learns_from_the_batch_it_names() -> None:
    other = Update(("second",), "copy_loss", source="offline")
    learner, reference = make(FIRST, other), make(FIRST, SECOND)
    learner.step({"replay": rows(0), "offline": rows(1, count=4)})
    reference.step(rows(0))
    assert torch.equal(learner.flat["first"].data, reference.flat["first"].data)
    assert not torch.equal(learner.flat["second"].data, reference.flat["second"].data)


def test_impossible_updates_and_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="trains 'third', which is no network"):
        make(Update(("third",), "reward_loss"))
    with pytest.raises(ValueError, match="every must be at least 1"):
        Update(("first",), "reward_loss", every=0)
    with pytest.raises(ValueError, match="offset must be from 0 to 2"):
        Update(("first",), "reward_loss", every=3, offset=3)
    for rate, every in ((0.0, 1), (1.5, 1), (0.5, 0)):
        with pytest.raises(ValueError, match="need 0 < rate <= 1"):
            Target("first", rate, every)
