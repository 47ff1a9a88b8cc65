"""The environments an agent acts in: automatic episodes, explicit seeds, exact resume."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from rlalign.envs.backends import Infos, Outcome, id_of
from rlalign.envs.building import Make, build_backend, maker_of
from rlalign.envs.identity import plain_id
from rlalign.envs.recording import Recording, replay
from rlalign.envs.spaces import check_spaces
from rlalign.errors import EnvError


class Episode(NamedTuple):
    """One finished episode: which environment played it, its undiscounted return, its length."""

    environment: int
    episode_return: float
    length: int


class StepResult(NamedTuple):
    """What one step gave; at an episode's end `next_observations` still holds its last one."""

    next_observations: np.ndarray  # [count, obs] float32, the true successors
    rewards: np.ndarray  # [count] float64
    terminated: np.ndarray  # [count] bool
    truncated: np.ndarray  # [count] bool
    finished: list[Episode]
    infos: Infos


class Environments:
    """`count` environments that begin a new, explicitly seeded episode when one ends.

    `make` is a gymnasium id or D4RL task, a function or class that makes an environment, one
    environment (then `count` is 1), or a vector environment of gymnasium or of
    stable-baselines3 (then `count` is its own). `asynchronous` runs each one in its own process.
    `env_kwargs` are options of an id or arguments of a function. `record=False` saves the actions'
    memory where no `state_dict` will be asked for. `maker` is what further environments like these,
    for evaluation say, are made from, or None; `env_id` their id if they have one, and `plain_id`
    the same where it says all about them: no options, no wrappers, known in any other process.

    Raises EnvError for an unknown id, `env_kwargs` that are not taken, or spaces no agent can use.
    """

    observation_space: Box
    action_space: Box

    def __init__(
        self,
        make: Make,
        count: int = 1,
        *,
        seed: int,
        asynchronous: bool = False,
        env_kwargs: Mapping[str, Any] | None = None,
        record: bool = True,
    ) -> None:
        if count < 1:
            raise EnvError(f"the number of environments must be at least 1, got {count}")
        options = dict(env_kwargs or {})
        self._backend = build_backend(make, count, asynchronous, options)
        backend = self._backend
        self.count = backend.count
        self.maker = maker_of(make, options)
        self.env_id = make if isinstance(make, str) else id_of(backend.spec)
        self.plain_id = plain_id(make, options, backend)
        try:
            name = self.env_id or "the environment"
            check_spaces(backend.observation_space, backend.action_space, name)
        except EnvError:
            backend.close()
            raise
        assert isinstance(backend.observation_space, Box)
        assert isinstance(backend.action_space, Box)
        self.observation_space = backend.observation_space
        self.action_space = backend.action_space
        self.reseed(seed)
        self._recording = Recording(self.count, self.action_space) if record else None
        self._action_dtype = self.action_space.dtype
        self._action_shape = (self.count, *self.action_space.shape)
        self._current: np.ndarray | None = None
        self.moves = 0  # steps and resets so far
        # An object that was handed over may be moved by its owner too.
        self._object = make if isinstance(make, gymnasium.Env) else None
        self._left: Any = None  # the object's trace when it was last moved from here
        self._seeds = [0] * self.count
        self._returns = np.zeros(self.count)
        self._lengths = np.zeros(self.count, np.int64)
        self.reset_infos: Infos = [{} for _ in range(self.count)]

    @property
    def current(self) -> np.ndarray:
        """Observations [count, obs] to act on next; those of a new episode where one ended."""
        if self._current is None:
            raise RuntimeError("call reset() first")
        return self._current

    def reseed(self, seed: int) -> None:
        """Draw the seeds of the episodes that begin from now on as if made with `seed`."""
        sequences = np.random.SeedSequence(seed).spawn(self.count)
        self._generators = [np.random.Generator(np.random.PCG64(s)) for s in sequences]

    def reset(self) -> np.ndarray:
        """Begin a new episode everywhere; returns observations [count, obs] float32."""
        observations = np.empty((self.count, *self.observation_space.shape), np.float32)
        self._begin(range(self.count), observations)
        self._current = observations
        self.moves += 1
        self._left = self._trace()
        return observations

    def step(self, actions: np.ndarray) -> StepResult:
        """Take `actions` [count, act] in the environments' own units.

        Raises EnvError when an environment returns an observation or reward that is not finite.
        """
        if self._current is None:
            raise RuntimeError("call reset() first")
        actions = np.asarray(actions, self._action_dtype)
        if actions.shape != self._action_shape:
            raise ValueError(f"actions have shape {actions.shape}, expected {self._action_shape}")
        if self._recording is not None:
            self._recording.append(actions)
        outcome = self._backend.step(actions)
        # A dot product costs half of isfinite().all(); what overflows it is looked at again.
        found, rewards = outcome.observations, outcome.rewards
        if not math.isfinite(np.vdot(found, found) + np.vdot(rewards, rewards)):
            self._check_finite(outcome)
        self.moves += 1
        self._returns += rewards
        self._lengths += 1
        self._current = found
        done = outcome.terminated | outcome.truncated
        finished = self._finish(done) if True in done.tolist() else []
        self._left = self._trace()
        return StepResult(*outcome[:4], finished, outcome.infos)

    @property
    def disturbed(self) -> bool:
        """Whether an environment object was stepped or reset by others since it was moved here.

        It shows in the steps that its TimeLimit counts and in its random generator.
        """
        return self._trace() != self._left

    def _trace(self) -> Any:
        if self._object is None:
            return None
        limited = self._object.has_wrapper_attr("_elapsed_steps")
        elapsed = self._object.get_wrapper_attr("_elapsed_steps") if limited else None
        random = self._object.unwrapped.np_random.bit_generator
        return elapsed, random.state if isinstance(random, np.random.PCG64) else None

    def _finish(self, done: np.ndarray) -> list[Episode]:
        indices = [int(index) for index in np.flatnonzero(done)]
        finished = [Episode(i, float(self._returns[i]), int(self._lengths[i])) for i in indices]
        observations = self.current.copy()
        self._begin(indices, observations)
        self._current = observations
        return finished

    def _begin(self, indices: list[int] | range, observations: np.ndarray) -> None:
        seeds: list[int | None] = [None] * self.count
        for index in indices:
            seeds[index] = self._seeds[index] = int(self._generators[index].integers(2**31))
            self._returns[index] = 0.0
            self._lengths[index] = 0
            if self._recording is not None:
                self._recording.clear(index)
        infos = self._backend.reset(seeds, observations)
        for index in indices:
            self.reset_infos[index] = infos[index]

    def _check_finite(self, outcome: Outcome) -> None:
        for what, values in (("observation", outcome.observations), ("reward", outcome.rewards)):
            wrong = ~np.isfinite(values.reshape(self.count, -1)).all(axis=1)
            if wrong.any():
                index = int(np.flatnonzero(wrong)[0])
                raise EnvError(
                    f"{self.env_id or 'the environment'} returned a {what} that is not finite "
                    f"(environment {index}, step {int(self._lengths[index]) + 1} of its episode)"
                )

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The running episodes as arrays and JSON-able state: seeds and actions since the reset.

        Raises EnvError where the environments were made with `record=False`.
        """
        if self._recording is None:
            raise EnvError("environments made with record=False cannot be saved")
        arrays = {"observations": self.current.copy(), "returns": self._returns.copy()}
        for index in range(self.count):
            arrays[f"actions.{index}"] = self._recording.actions(index).copy()
        state = {
            "env_id": self.env_id,
            "count": self.count,
            "seeds": list(self._seeds),
            "generators": [generator.bit_generator.state for generator in self._generators],
        }
        return arrays, state

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Bring the running episodes back by their seeds and actions.

        Raises EnvError when the state is of other environments, or when the replayed observations
        differ from the saved ones because the environment is not a function of seed and actions.
        """
        if self._recording is None:
            raise EnvError("environments made with record=False cannot be restored")
        if (state["env_id"], state["count"]) != (self.env_id, self.count):
            raise EnvError(
                f"the saved state is of {state['count']} x {state['env_id']}, "
                f"these environments are {self.count} x {self.env_id}"
            )
        actions = [np.asarray(arrays[f"actions.{i}"]) for i in range(self.count)]
        seeds = [int(seed) for seed in state["seeds"]]
        found = replay(self._backend, seeds, actions, name=self.env_id or "the environment")
        if found.tobytes() != np.asarray(arrays["observations"], np.float32).tobytes():
            raise EnvError(
                f"{self.env_id or 'the environment'} cannot be resumed exactly: replaying the "
                "running episode gave other observations (its physics or version changed, or it "
                "keeps state beyond its seed)"
            )
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        self._seeds = seeds
        self._returns = np.array(arrays["returns"], np.float64)
        self._lengths = np.array([len(taken) for taken in actions], np.int64)
        self._recording.restore(actions)
        self._current = found
        self._left = self._trace()

    def get(self, name: str, *, indices: Sequence[int] | None = None) -> list[Any]:
        """Attribute `name` of the environments, looked up through their wrappers."""
        return self._backend.get(name, range(self.count) if indices is None else indices)

    def set(self, name: str, value: Any, *, indices: Sequence[int] | None = None) -> None:
        """Set attribute `name` of the environments."""
        self._backend.set(name, value, range(self.count) if indices is None else indices)

    def call(
        self, name: str, *args: Any, indices: Sequence[int] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Call method `name` of the environments; one result for each."""
        chosen = range(self.count) if indices is None else indices
        return self._backend.call(name, chosen, *args, **kwargs)

    def wrapped_by(self, wrapper: type) -> list[bool]:
        """For each environment, whether one of its wrappers is a `wrapper`."""
        return self._backend.wrapped_by(wrapper)

    def close(self) -> None:
        """Close every environment and end its process; a second call does nothing."""
        self._backend.close()


def as_environments(
    env: Make,
    *,
    seed: int,
    count: int = 1,
    asynchronous: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Environments:
    """`env` as Environments: itself if it is one or a view of one, otherwise made from it."""
    if isinstance(env, Environments):
        return env
    # Not getattr: wrappers of stable-baselines3 hand out attributes of what they wrap.
    inner = getattr(env, "__dict__", {}).get("environments")
    if isinstance(inner, Environments):
        return inner
    return Environments(env, count, seed=seed, asynchronous=asynchronous, env_kwargs=env_kwargs)
