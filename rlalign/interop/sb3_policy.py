"""Policies of stable-baselines3's SAC, TD3, DDPG, PPO and A2C, read without unpickling anything.

A saved model is a zip file: `policy.pth` holds tensors and is read with `weights_only=True`; `data`
is JSON whose pickled parts (base64 under `:serialized:`) are never decoded. Only what the JSON says
in plain text is used: bounds of the actions, and the kind of activation.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from rlalign.envs.spaces import ActionScale
from rlalign.errors import CheckpointError
from rlalign.interop.sb3_actor import Actor, read_actor


class SB3Policy:
    """A policy that stable-baselines3 trained, acting in [-1, 1] as agents do.

    `algorithm` is "SAC", "TD3" (also DDPG) or "PPO" (also A2C). It acts as the original does,
    sampling included: TD3 has no noise of its own, PPO's samples are clipped to the bounds.
    Observations are taken as they are; a policy trained behind VecNormalize needs them normalised.
    `rlalign.data` collects datasets with it, and `copy_into` starts an agent from it.
    """

    def __init__(self, actor: Actor, action_space: Box, observation_space: Box) -> None:
        self._actor = actor
        self.algorithm = actor.algorithm
        self.observation_size = actor.observation_size
        self.action_size = actor.action_size
        self.observation_space = observation_space
        self.action_space = action_space
        self._scale = ActionScale.of(action_space)
        self._random = np.random.default_rng(0)

    def act(
        self,
        observations: np.ndarray,
        generator: np.random.Generator | None = None,
        deterministic: bool = False,
    ) -> np.ndarray:
        """Actions [batch, act] in [-1, 1] at `observations` [batch, obs].

        `generator` draws the noise; without one the policy's own does (seeded with 0).
        """
        noise = None if deterministic else generator or self._random
        raw = self._actor.act(np.asarray(observations, np.float32), noise)
        if self._actor.in_environment_units:
            return self._scale.to_agent(np.clip(raw, self._scale.low, self._scale.high))
        return raw

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions in the environment's units for one observation or a batch of them."""
        observations = np.asarray(observation, np.float32)
        batch = observations.reshape(-1, self.observation_size)
        actions = self._scale.to_environment(self.act(batch, deterministic=deterministic))
        return (actions[0] if observations.ndim == 1 else actions), state

    def copy_into(self, agent: Any) -> None:
        """Start `agent`'s actor, and its target if it has one, from this policy.

        Raises CheckpointError where the agent's actor is of another kind or shape.
        """
        from rlalign.interop.sb3_copy import copy_actor

        copy_actor(self._actor, self._scale, agent)


def load_sb3_policy(path: str | Path, env_id: str | None = None) -> SB3Policy:
    """The policy in a zip file that stable-baselines3's SAC, TD3, DDPG, PPO or A2C saved.

    The bounds of its actions are those in the file: in an environment of others it would act
    rescaled. Where they cannot be read they are those of the environment `env_id`, whose
    observations and number of actions are compared with the file's.

    Raises CheckpointError for a file that is missing, damaged or of an unsupported policy.
    """
    path = Path(path)
    if not path.exists() and path.with_name(path.name + ".zip").exists():
        path = path.with_name(path.name + ".zip")  # as stable-baselines3's own load does
    tensors, data = _read(path)
    actor = read_actor(tensors, data, str(path))
    actions = _action_space_of_file(data, actor)
    if env_id is None:
        if actions is None:
            raise CheckpointError(
                f"{path}: cannot read the bounds of its {actor.action_size} actions; "
                "name its environment (env_id)"
            )
        observations = Box(-np.inf, np.inf, (actor.observation_size,), np.float32)
        return SB3Policy(actor, action_space=actions, observation_space=observations)
    spaces = _spaces_of(env_id)
    found = (actor.observation_size, actor.action_size)
    wanted = (int(np.prod(spaces[0].shape)), int(np.prod(spaces[1].shape)))
    if found != wanted:
        raise CheckpointError(
            f"{path}: the policy has {found[0]} observations and {found[1]} actions, "
            f"{env_id} has {wanted[0]} and {wanted[1]}"
        )
    actions = spaces[1] if actions is None else actions
    return SB3Policy(actor, action_space=actions, observation_space=spaces[0])


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
            policy = archive.read("policy.pth")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a model saved by stable-baselines3 ({error})"
        ) from error
    try:
        tensors = torch.load(io.BytesIO(policy), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or unsafe file
        raise CheckpointError(
            f"{path}: policy.pth is damaged or holds more than tensors, and is not opened"
        ) from error
    if not isinstance(tensors, Mapping) or not isinstance(data, dict):
        raise CheckpointError(f"{path}: not a model saved by stable-baselines3")
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} in policy.pth is not a tensor of finite numbers")
    return dict(tensors), data


def _spaces_of(env_id: str) -> tuple[Box, Box]:
    from rlalign.envs.make import make_environment
    from rlalign.envs.spaces import check_spaces

    env = make_environment(env_id)
    spaces = env.observation_space, env.action_space
    env.close()
    check_spaces(*spaces, env_id)
    assert isinstance(spaces[0], Box)
    assert isinstance(spaces[1], Box)
    return spaces[0], spaces[1]


def _action_space_of_file(data: dict[str, Any], actor: Actor) -> Box | None:
    """None where the bounds cannot be read, which are all that the file says in plain text."""
    bounds = [_numbers(data.get("action_space"), key) for key in ("low", "high")]
    if any(len(bound) != actor.action_size for bound in bounds):
        return None
    return Box(bounds[0], bounds[1], dtype=np.float32)


def _numbers(space: Any, key: str) -> np.ndarray:
    """The numbers in numpy's text form of a bound, such as "[-2. -1.]"; none if it has others."""
    text = space.get(key) if isinstance(space, dict) else None
    if not isinstance(text, str) or not re.fullmatch(r"\[[-+.\de\s]*\]", text):
        return np.empty(0, np.float32)
    try:
        return np.array([float(word) for word in text[1:-1].split()], np.float32)
    except ValueError:
        return np.empty(0, np.float32)
