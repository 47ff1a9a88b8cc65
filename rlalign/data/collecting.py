"""Playing a policy in an environment and keeping what happens as a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlalign.data.dataset import Dataset
from rlalign.data.packing import allocate
from rlalign.errors import DatasetError, EnvError
from rlalign.layout import Layout

if TYPE_CHECKING:
    import gymnasium
    from tqdm import tqdm

    from rlalign.data.behaviour import Policy

Array = NDArray[Any]


@dataclass(frozen=True)
class Share:
    """How many transitions one policy contributes to a dataset."""

    policy: Policy
    transitions: int


def collect(
    policy: Policy | Sequence[Share],
    environment: str | Callable[[], gymnasium.Env[Any, Any]],
    transitions: int | None = None,
    *,
    seed: int,
    environments: int = 10,
    name: str = "collected",
    progress: bool = True,
) -> Dataset:
    """Collect a dataset by playing a policy, or several one after the other.

    Episodes are numbered, each with its own seed, and kept in the order of their numbers, so that
    long episodes are not less likely to be kept than short ones. The last episode of each policy
    is cut where its share is full. The same arguments give the same bits on the same machine.

    Args:
        policy: chooses actions in [-1, 1], mapped onto the environment's range; or shares.
        environment: gymnasium id or D4RL task, or a function that makes one environment; goal
            environments are observed as one vector.
        transitions: how many to collect with a single policy.
        seed: of the episodes and the policy's noise.
        environments: how many play side by side; part of what decides the bits.
        name: the dataset's name.
        progress: whether to draw a progress bar.

    Raises:
        EnvError: if the environment cannot be made, its observations or actions are not flat boxes,
            or it returns an observation or a reward that is not finite.
        DatasetError: if there is nothing to collect, more than the memory holds, or the policy's
            actions do not fit.
    """
    from tqdm import tqdm

    if isinstance(policy, Sequence):
        shares = list(policy)
    else:
        shares = [Share(policy, transitions or 0)]
    if not shares or min(share.transitions for share in shares) < 1 or environments < 1:
        raise DatasetError(
            f"{name}: at least 1 transition per policy and 1 environment are needed, got "
            f"{[share.transitions for share in shares]} and {environments}"
        )
    total = sum(share.transitions for share in shares)
    slots = [_make(environment) for _ in range(min(environments, total))]
    try:
        first = slots[0]
        made = first.spec.id if first.spec is not None else None
        known = environment if isinstance(environment, str) else made
        called = known or "the environment"
        layout, low, high = _sizes(first, called)
        table = allocate(name, total, layout.width)
        ends: list[Array] = []
        filled = 0
        hidden = None if progress else True  # None: shown only on a terminal
        with tqdm(desc=name, total=total, unit=" transitions", disable=hidden) as bar:
            for index, share in enumerate(shares):
                player = _Player(slots, called, share.policy, low, high, [seed, index], bar)
                rows = table.numpy()[filled : filled + share.transitions]
                ends.append(player.fill(rows) + filled)
                filled += share.transitions
    finally:
        for slot in slots:
            slot.close()
    return Dataset(
        table=table,
        layout=layout,
        ends=np.concatenate(ends),
        name=name,
        environment=known,
        action_low=low,
        action_high=high,
    )


def _make(environment: str | Callable[[], gymnasium.Env[Any, Any]]) -> gymnasium.Env[Any, Any]:
    from rlalign.envs.make import flat, make_environment

    if isinstance(environment, str):
        return make_environment(environment, disable_env_checker=True)
    return flat(environment())


def _sizes(env: gymnasium.Env[Any, Any], called: str) -> tuple[Layout, Array, Array]:
    """Return the layout of an environment's transitions and the bounds of its actions."""
    import gymnasium

    from rlalign.envs.spaces import check_spaces

    observations, actions = env.observation_space, env.action_space
    check_spaces(observations, actions, called)
    assert isinstance(actions, gymnasium.spaces.Box)
    assert isinstance(observations, gymnasium.spaces.Box)
    layout = Layout(observations.shape[0], actions.shape[0])
    return layout, actions.low.astype(np.float32), actions.high.astype(np.float32)


@dataclass
class _Player:
    """Environments played side by side by one policy, in a fixed order.

    Args:
        slots: the environments.
        called: what messages call them.
        policy: chooses the actions.
        low, high: bounds of the actions [act].
        entropy: decides every seed.
        bar: told of each transition.
        episodes: rows so far of each episode that is not yet in the dataset, by its number.
    """

    slots: list[gymnasium.Env[Any, Any]]
    called: str
    policy: Policy
    low: Array
    high: Array
    entropy: list[int]
    bar: tqdm[Any]
    episodes: dict[int, list[Array]] = field(default_factory=dict)

    def fill(self, rows: Array) -> Array:
        """Play until the rows are full; return where each trajectory ends in them."""
        generator = np.random.default_rng(self.entropy)
        finished: set[int] = set()
        ends: list[int] = []
        playing: dict[int, int] = {}  # slot -> number of its episode
        standing: dict[int, Array] = {}  # slot -> its observation
        started = played = filled = 0
        while filled < len(rows):
            for slot in range(len(self.slots)):
                if slot not in playing and played < len(rows):
                    playing[slot], standing[slot] = started, self._start(slot, started)
                    started += 1
            over = self._step(playing, standing, generator)
            played += len(playing)
            for slot in over:
                finished.add(playing.pop(slot))
            while filled < len(rows):
                number, room = len(ends), len(rows) - filled
                # One that goes on may have enough already: it is cut there however it goes on.
                if number not in finished and len(self.episodes.get(number, ())) < room:
                    break
                episode = self.episodes.pop(number)[:room]
                rows[filled : filled + len(episode)] = episode
                filled += len(episode)
                ends.append(filled)
                self.bar.update(len(episode))
        self.episodes.clear()
        return np.asarray(ends, dtype=np.int64)

    def _start(self, slot: int, number: int) -> Array:
        seed = np.random.SeedSequence([*self.entropy, number + 1]).generate_state(1)[0]
        self.episodes[number] = []
        observation, _ = self.slots[slot].reset(seed=int(seed))
        return self._finite("observation", observation)

    def _finite(self, what: str, value: Any) -> Array:
        """Return what an environment returned as float32; a dataset must not hold NaN."""
        with np.errstate(over="ignore"):
            values = np.asarray(value, dtype=np.float32)
        if not np.isfinite(values).all():
            raise EnvError(f"{self.called} returned a {what} that is not finite")
        return values

    def _step(
        self, playing: dict[int, int], standing: dict[int, Array], generator: np.random.Generator
    ) -> list[int]:
        """Step every environment that plays; return the slots whose episodes are over."""
        order = sorted(playing)
        actions = np.asarray(
            self.policy.act(np.stack([standing[slot] for slot in order]), generator),
            dtype=np.float32,
        )
        if actions.shape != (len(order), len(self.low)):
            raise DatasetError(
                f"the policy gives actions of shape {list(actions.shape)}, the environment takes "
                f"{[len(order), len(self.low)]}"
            )
        actions = self.low + (np.clip(actions, -1.0, 1.0) + 1.0) / 2.0 * (self.high - self.low)
        over = []
        for action, slot in zip(actions, order, strict=True):
            following, reward, terminated, truncated, _ = self.slots[slot].step(action)
            following = self._finite("observation", following)
            gain = float(self._finite("reward", float(reward)))
            row = np.concatenate(
                [standing[slot], action, [gain, float(terminated)], following],
                dtype=np.float32,
            )
            self.episodes[playing[slot]].append(row)
            standing[slot] = following
            if terminated or truncated:
                over.append(slot)
        return over
