"""Agents and replay buffers as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from gymnasium.spaces import Box

from rlalign.checkpoint import load_state, save_state
from rlalign.errors import CheckpointError
from rlalign.replay import GrowingReplay

if TYPE_CHECKING:
    from rlalign.agent import Agent

A = TypeVar("A", bound="Agent")
SUFFIXES = (".safetensors", ".zip")


def save_agent(agent: Agent, path: str | Path) -> None:
    """Write an agent with its spaces, so that it can be loaded without an environment."""
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        path = path.with_name(path.name + ".safetensors")
    tensors, state = agent.state_dict()
    for kind, space in (("observation", agent.observation_space), ("action", agent.action_space)):
        tensors[f"spaces/{kind}_low"] = torch.from_numpy(space.low.copy())
        tensors[f"spaces/{kind}_high"] = torch.from_numpy(space.high.copy())
    # An id that does not say all about the environments would have others played without a word.
    state["environment"] = None if agent.environments is None else agent.environments.plain_id
    state["verbose"] = agent.verbose
    log = agent.tensorboard_log
    state["tensorboard_log"] = None if log is None else str(log)
    save_state(path, (tensors, state))


def with_ending(path: str | Path) -> Path:
    """Return the file that a path with or without its ending names; itself where there is none.

    Without one, what `save_agent` makes of the path comes before a file of just that name, which
    may be a replay buffer.
    """
    path = Path(path).expanduser()
    endings = () if path.suffix in SUFFIXES else SUFFIXES
    named = (Path(f"{path}{ending}") for ending in endings)
    return next((file for file in named if file.is_file()), path)


def load_agent(
    kind: type[A], path: str | Path, env: Any, device: str | torch.device, **changes: Any
) -> A:
    """Read an agent of class `kind` and give it environments, if there are any.

    `changes` take the place of settings, `verbose` and `tensorboard_log` in the file.

    Raises:
        CheckpointError: if the file is missing, damaged, or of another agent.
    """
    path = with_ending(path)
    tensors, state = load_state(path)
    if state.get("agent") != kind.name:
        raise CheckpointError(f"{path}: holds agent {state.get('agent')!r}, not {kind.name!r}")
    try:
        observation_space, action_space = (
            Box(low.numpy(), high.numpy(), dtype=low.numpy().dtype)
            for low, high in (
                (tensors.pop(f"spaces/{name}_low"), tensors.pop(f"spaces/{name}_high"))
                for name in ("observation", "action")
            )
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: lacks {error.args[0]}") from error
    logs = {name: state[name] for name in ("verbose", "tensorboard_log") if name in state}
    agent = kind(
        (observation_space, action_space),
        seed=state["seed"],
        device=device,
        **{**state["settings"], **logs, **changes},
    )
    agent.load_state_dict(tensors, state)
    if env is not None:
        agent.set_env(env)
    return agent


def load_any_agent(path: str | Path, env: Any = None, device: str = "cpu") -> Agent:
    """Read an agent of whichever class the file names.

    Raises:
        CheckpointError: if the file is missing, damaged, or names no known agent.
    """
    from rlalign.agents import AGENTS

    path = with_ending(path)
    _, state = load_state(path)
    name = state.get("agent")
    if not isinstance(name, str) or name not in AGENTS:
        raise CheckpointError(
            f"{path}: holds agent {name!r}, which is not one of rlalign's; its own class loads it"
        )
    return load_agent(AGENTS[name], path, env, device)


def save_replay(agent: Agent, path: str | Path) -> None:
    """Write an agent's transitions of interaction."""
    if agent.replay_buffer is None:
        raise CheckpointError("the agent has no replay buffer yet: call learn first")
    save_state(Path(path).expanduser(), agent.replay_buffer.state_dict())


def load_replay(agent: Agent, path: str | Path) -> None:
    """Give an agent the transitions that `save_replay` wrote."""
    path = Path(path).expanduser()
    tensors, state = load_state(path)
    if "capacity" not in state:
        raise CheckpointError(f"{path}: holds agent {state.get('agent')!r}, not a replay buffer")
    buffer = GrowingReplay(agent.layout, int(state["capacity"]), agent.device)
    buffer.load_state_dict(tensors, state)
    agent.replay_buffer = buffer
