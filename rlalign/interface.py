"""What users of stable-baselines3 find on an agent: acting, environments, logger, files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor

from rlalign.errors import EnvError, MissingPackageError

if TYPE_CHECKING:
    from gymnasium.spaces import Box

    from rlalign.agent import Agent
    from rlalign.envs.spaces import ActionScale
    from rlalign.envs.vector import Environments


class Interface:
    """Methods and attributes that stable-baselines3's tools and users expect."""

    observation_space: Box
    action_space: Box
    action_scale: ActionScale
    num_timesteps: int
    seed: int
    name: ClassVar[str]
    verbose: int
    tensorboard_log: str | Path | None
    _env: Environments | None
    _logger: Any
    _log_name = ""
    _own_logger = False  # given by `set_logger`

    def act(self, observations: Tensor, *, deterministic: bool) -> np.ndarray:
        """Return actions [batch, act] in [-1, 1] at raw observations [batch, obs]."""
        raise NotImplementedError

    def predict(
        self,
        observation: np.ndarray | Mapping[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return actions in the environment's units.

        Args:
            observation: one observation or a batch of them; a goal environment's dictionary of
                vectors, or of batches of them, is flattened as the environments flatten it.
            state, episode_start: unused; kept for stable-baselines3's interface.
            deterministic: the policy's mode instead of a sample.

        Returns:
            the action, or one per observation, and `state`.

        Raises:
            EnvError: for observations of another shape.
        """
        given: Any = observation
        if isinstance(given, Mapping):
            given = _flattened(given)
        if isinstance(given, tuple):
            raise EnvError(
                "observations must be an array, got a tuple; env.reset() returns one and a "
                "dictionary"
            )
        wanted, found = self.observation_space.shape, np.shape(given)
        single = found == wanted
        if not single and found[1:] != wanted:
            raise EnvError(
                f"observations must be of shape {wanted} or {('n', *wanted)}, got {found} "
                f"of {type(given).__name__}"
            )
        raw = torch.as_tensor(np.asarray(given, np.float32)).reshape(
            -1, int(np.prod(self.observation_space.shape))
        )
        actions = self.action_scale.to_environment(self.act(raw, deterministic=deterministic))
        shape = self.action_space.shape if single else (-1, *self.action_space.shape)
        return actions.reshape(shape), state

    def get_env(self) -> Any:
        """Return the environments as a stable-baselines3 VecEnv, or None."""
        from rlalign.interop.sb3 import view_of

        return None if self._env is None else view_of(self._env)

    def set_env(self, env: Any) -> None:
        """Use other environments with the same spaces.

        Raises:
            EnvError: if the spaces differ.
        """
        environments, spaces = make_environments(env, self.seed)
        if spaces != (self.observation_space, self.action_space):
            raise EnvError(
                f"the agent was made for {self.observation_space} and {self.action_space}, "
                f"the environment has {spaces[0]} and {spaces[1]}"
            )
        self._env = environments

    @property
    def environments(self) -> Environments | None:
        """The training environments, or None where the agent was made from spaces."""
        return self._env

    @property
    def logger(self) -> Any:
        """stable-baselines3's logger; it prints if `verbose`, and writes to `tensorboard_log`."""
        if self._logger is None:
            self.name_log(None)
        return self._logger

    def name_log(self, name: str | None, *, anew: bool = False) -> None:
        """Make the logger if there is none, its run in `tensorboard_log` called `name`.

        Another name than before begins another run, and so does `anew`; what `set_logger` was
        given stays.
        """
        name = name or self._log_name or self.name
        if self._own_logger or (self._logger is not None and name == self._log_name and not anew):
            return
        self._log_name = name
        if self._logger is not None:
            self._logger.close()
        from stable_baselines3.common.logger import Logger
        from stable_baselines3.common.utils import configure_logger

        if not self.verbose and self.tensorboard_log is None:
            self._logger = Logger(folder=None, output_formats=[])
            return
        folder = None if self.tensorboard_log is None else str(self.tensorboard_log)
        try:
            self._logger = configure_logger(self.verbose, folder, name)
        except ImportError as error:
            raise MissingPackageError(
                "tensorboard_log needs tensorboard; install it with: pip install tensorboard"
            ) from error

    def set_logger(self, logger: Any) -> None:
        """Use a logger that `stable_baselines3.common.logger.configure` makes."""
        self._logger = logger
        self._own_logger = True

    def get_vec_normalize_env(self) -> None:
        """Return None: normalisation lies in the agent, not in a wrapper."""
        return

    def save(self, path: str | Path, **_: Any) -> None:
        """Write the agent without its replay buffer to a safetensors file (.zip: wrapped in one).

        A path without an ending gets ``.safetensors``.
        """
        from rlalign.agent_files import save_agent

        save_agent(cast("Agent", self), path)

    @classmethod
    def load(
        cls, path: str | Path, env: Any = None, device: str | torch.device = "cpu", **changes: Any
    ) -> Self:
        """Read an agent that `save` wrote.

        Args:
            path: the file, with or without its ending.
            env: environments to go on with; the spaces in the file suffice for predicting.
            device: where to put it.
            changes: settings, `verbose` or `tensorboard_log` other than in the file.

        Raises:
            CheckpointError: if the file is missing, damaged, or of another agent, or if a change
                makes networks of other sizes.
            SettingsError: for an unknown setting or one out of range.
        """
        from rlalign.agent_files import load_agent

        return cast(Self, load_agent(cast("type[Agent]", cls), path, env, device, **changes))

    def save_replay_buffer(self, path: str | Path) -> None:
        """Write the transitions of interaction to a file.

        Raises:
            CheckpointError: if there are none yet.
        """
        from rlalign.agent_files import save_replay

        save_replay(cast("Agent", self), path)

    def load_replay_buffer(self, path: str | Path) -> None:
        """Read what `save_replay_buffer` wrote.

        Raises:
            CheckpointError: if it is of other columns.
        """
        from rlalign.agent_files import load_replay

        load_replay(cast("Agent", self), path)


def _flattened(observation: Mapping[str, Any]) -> Any:
    """Return a goal environment's observation as one array [..., obs], another dictionary as it is.

    Raises EnvError where its parts are not arrays of as many observations each.
    """
    from rlalign.envs.goals import GOAL_ORDER, flatten_goal

    if set(observation) != set(GOAL_ORDER):
        return observation
    try:
        return flatten_goal(observation)
    except ValueError as error:
        shapes = ", ".join(f"{key} {np.shape(observation[key])}" for key in GOAL_ORDER)
        raise EnvError(
            "the parts of a goal observation must be vectors or batches of one length, got "
            f"{shapes}"
        ) from error


def make_environments(env: Any, seed: int) -> tuple[Environments | None, tuple[Any, Any]]:
    """Return environments, None where `env` is a pair of spaces, and their spaces."""
    if isinstance(env, tuple) and len(env) == 2:
        return None, env
    from rlalign.envs.vector import as_environments

    environments = as_environments(env, seed=seed)
    return environments, (environments.observation_space, environments.action_space)
