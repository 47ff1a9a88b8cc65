"""The agent: networks and losses of a method, with the interface stable-baselines3 users know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from rlalign.checkpoint import select
from rlalign.devices import usable_device, whole_seed
from rlalign.errors import CheckpointError
from rlalign.generators import restore_generator
from rlalign.interaction import Interaction
from rlalign.interface import Interface, make_environments
from rlalign.layout import Batch, Layout
from rlalign.learner import Learner, Networks, Noise, Target, Update
from rlalign.preprocessing import Preprocessing
from rlalign.replay import GrowingReplay, Source
from rlalign.settings import AgentSettings, OnlineSettings, build_settings

if TYPE_CHECKING:
    from rlalign.data.dataset import Dataset

Prefixed = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Spec:
    """Sizes that networks are built from."""

    observation_size: int
    action_size: int


class Agent(Interface, ABC):
    """Base of all agents.

    Args:
        env: a gymnasium id, a D4RL task, an environment, a function that makes one, a vector
            environment, or a pair (observation space, action space) for offline use alone.
        seed: of networks, batches, noise, exploration and environments.
        device: where networks and replay lie: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``.
        accelerated: use the fast execution of `rlalign.learner`; plain autograd otherwise.
        verbose: 1 prints what `fit` and `learn` log, as in stable-baselines3.
        tensorboard_log: folder that they log to; None for none.
        settings: fields of the agent's settings dataclass.

    Raises:
        SettingsError: for an unknown setting or one out of range.
        EnvError: for an unknown environment, or spaces other than flat continuous ones.

    A subclass states its `networks`, `targets`, `updates`, `noise` and the loss methods that the
    updates name; each loss takes ``(nets, batch)`` and returns ``(loss, metrics)``.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[AgentSettings]] = AgentSettings
    online_defaults: ClassVar[OnlineSettings] = OnlineSettings()
    action_limit: ClassVar[float | None] = None  # data actions are clipped to +- this

    def __init__(
        self,
        env: Any,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        accelerated: bool = True,
        verbose: int = 0,
        tensorboard_log: str | Path | None = None,
        **settings: Any,
    ) -> None:
        from rlalign.envs.spaces import ActionScale, check_spaces

        self.settings: Any = build_settings(self.settings_type, settings, self.name)
        self.device = usable_device(device)
        self.seed = seed = whole_seed(seed)
        self.verbose = verbose
        self.tensorboard_log = tensorboard_log
        self._accelerated = accelerated
        self._env, spaces = make_environments(env, seed)
        check_spaces(*spaces, str(env) if isinstance(env, str) else "the environment")
        self.observation_space, self.action_space = spaces
        self.spec = Spec(
            int(np.prod(self.observation_space.shape)), int(np.prod(self.action_space.shape))
        )
        self.action_scale = ActionScale.of(self.action_space)
        self.layout = Layout(self.spec.observation_size, self.spec.action_size, self.extras)
        streams = np.random.SeedSequence(seed).generate_state(4)
        self.sampling_generator = self._generator(streams[0])
        self.exploration_generator = self._generator(streams[1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(streams[2]))
            networks = dict(self.networks(self.spec))
        self.learner = Learner(
            networks,
            targets=self.targets,
            updates=self.updates,
            losses=self,
            noise=self.noise,
            layout=self.layout,
            device=self.device,
            generator=self._generator(streams[3]),
            accelerated=accelerated,
        )
        self.preprocessing = Preprocessing.identity(self.spec.observation_size, self.settings)
        self._set_transform()
        self.dataset: Dataset | None = None
        self.replay_buffer: GrowingReplay | None = None
        self.interaction: Interaction | None = None
        self.online = False
        self.num_timesteps = 0
        self._logger: Any = None

    # What a method is made of.

    @abstractmethod
    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        """Return the trained networks by name; one of them is usually ``actor``."""

    @property
    @abstractmethod
    def updates(self) -> tuple[Update, ...]:
        """The gradient steps, in the order in which they run."""

    @property
    def targets(self) -> Mapping[str, Target]:
        """Slowly moving copies by name."""
        return {}

    @property
    def noise(self) -> Mapping[str, Noise]:
        """Random numbers that the losses consume, by name."""
        return {}

    def policy_inputs(self, nets: Networks, batch: Batch) -> Tensor:
        """Return what the losses show the policy at s: the observations [batch, obs].

        A family of policies (FamO2O) is shown its coefficient too.
        """
        return batch.observations

    def next_policy_inputs(self, nets: Networks, batch: Batch) -> Tensor:
        """Return what the losses show the policy at s': the next observations [batch, obs]."""
        return batch.next_observations

    @property
    def extras(self) -> Mapping[str, int]:
        """Further columns of a transition that the losses read, by name and size."""
        return {}

    def extra_columns(self, trajectories: Dataset) -> Mapping[str, np.ndarray]:
        """Return the `extras` [transitions, size] of whole trajectories in raw units.

        They are the offline dataset, or episodes of interaction that have ended.
        """
        return {}

    @property
    def waits_for_episodes(self) -> bool:
        """Whether interaction is kept back until its episode has ended, to fill its `extras`.

        Where the losses do not read them online, they are 0 in transitions of interaction.
        """
        return bool(self.extras)

    def exploit(self, nets: Networks, observations: Tensor) -> Tensor:
        """Return deterministic actions [batch, act] in [-1, 1] at normalised observations."""
        actions: Tensor = nets.actor.mode(observations)
        return actions

    def explore(self, nets: Networks, observations: Tensor, noise: Tensor) -> Tensor:
        """Return exploring actions [batch, act] in [-1, 1], given standard normal noise."""
        actions: Tensor = nets.actor.act(observations, noise)
        return actions

    def begin_offline(self, steps: int) -> None:
        """Prepare for `steps` updates on a dataset, over which learning-rate schedules run."""
        self._switch(online=False)
        self.learner.set_horizon(steps)

    def set_update_ratio(self, updates_per_step: float) -> None:
        """Take note of the update-to-data ratio of the online phase that begins next."""

    def begin_online(self) -> None:
        """Prepare for interaction: learning-rate schedules end, everything else is kept."""
        self._switch(online=True)
        self.learner.set_horizon(None)

    def _switch(self, *, online: bool) -> None:
        """Note the phase, which losses may read: `online` is constant within one."""
        if online != self.online:
            self.learner.recapture()
        self.online = online

    # Learning.

    def prepare(self, dataset: Dataset) -> None:
        """Check that a dataset fits and take normalisation and reward scale from it.

        Raises:
            DatasetError: if observations or actions are of other sizes than the environment's.
        """
        from rlalign.data.dataset import check_spaces as check_dataset
        from rlalign.data.doubts import warn_of_another_task, warn_of_bounds

        check_dataset(dataset, self.observation_space, self.action_space)
        warn_of_bounds(dataset, self.action_scale, clips=self.action_limit is not None)
        if self.environments is not None:
            warn_of_another_task(dataset, self.environments.env_id)
        if self.learner.step_count == 0:
            self.preprocessing = Preprocessing.from_dataset(dataset, self.settings)
            self._set_transform()
        self.dataset = dataset

    def update(self, source: Source, steps: int) -> None:
        """Apply `steps` updates on batches drawn from `source`.

        Raises:
            TrainingError: if a loss is not finite.
        """
        batch_size = self.settings.batch_size
        learner, transform, generator = self.learner, self._transform, self.sampling_generator
        for _ in range(steps):
            learner.step(transform(source.sample(batch_size, generator)))

    def fit(
        self,
        dataset: Dataset | str | Path,
        steps: float,
        *,
        evaluate_every: int | None = None,
        evaluation_episodes: int = 10,
        progress_bar: bool = False,
    ) -> Self:
        """Learn offline; what happens is logged through `logger` every 1000 updates.

        Args:
            dataset: of this environment, or a name or path that `load_dataset` takes.
            steps: gradient updates, a whole number.
            evaluate_every: updates between evaluations, recorded through `logger`; None for none.
            evaluation_episodes: episodes of each evaluation, on environments of their own.
            progress_bar: show one.

        Returns:
            the agent.
        """
        from rlalign.training import fit

        fit(
            self,
            dataset,
            steps,
            evaluate_every=evaluate_every,
            episodes=evaluation_episodes,
            progress_bar=progress_bar,
        )
        return self

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = 1000,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = False,
        progress_bar: bool = False,
        **online: Any,
    ) -> Self:
        """Learn online, from where the last `fit` or `learn` ended or from scratch.

        Calls add up: episodes run on from one to the next, and warm-up and random steps count the
        environment steps of all of them.

        Args:
            total_timesteps: environment steps.
            callback: a stable-baselines3 callback, a list of them, or a function.
            log_interval: environment steps between entries in `logger`; None for none.
            tb_log_name: name of the run within `tensorboard_log`; another than before begins
                another run. By default the one before, at first the agent's own name.
            reset_num_timesteps: count steps from 0 again, with a new episode and a new log.
            progress_bar: show one.
            online: fields of `OnlineSettings`, over the agent's own defaults. A replay buffer that
                is there already keeps its size unless another `buffer_size` is given.

        Returns:
            the agent.
        """
        from rlalign.training import learn

        learn(
            self,
            total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
            online=online,
        )
        return self

    # Acting.

    @torch.no_grad()
    def act(self, observations: Tensor, *, deterministic: bool) -> np.ndarray:
        """Return actions [batch, act] in [-1, 1] at raw observations [batch, obs]."""
        inputs = self.preprocessing.observations(observations.to(self.device))
        if deterministic:
            actions = self.exploit(self.learner.nets, inputs)
        else:
            noise = torch.randn(
                len(inputs),
                self.spec.action_size,
                generator=self.exploration_generator,
                device=self.device,
            )
            actions = self.explore(self.learner.nets, inputs, noise)
        return actions.cpu().numpy()

    # State.

    def state_dict(self) -> Prefixed:
        """Return everything that learning depends on except replay, dataset and environments."""
        learner_tensors, learner_state = self.learner.state_dict()
        tensors = {f"learner/{name}": tensor for name, tensor in learner_tensors.items()}
        arrays, preprocessing = self.preprocessing.state_dict()
        tensors |= {f"preprocessing/{name}": tensor for name, tensor in arrays.items()}
        tensors["generators/sampling"] = self.sampling_generator.get_state()
        tensors["generators/exploration"] = self.exploration_generator.get_state()
        state = {
            "agent": self.name,
            "settings": self.settings.to_dict(),
            "learner": learner_state,
            "preprocessing": preprocessing,
            "online": self.online,
            "num_timesteps": self.num_timesteps,
            "seed": self.seed,
            "device": self.device.type,
        }
        return tensors, state

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Settings that do not change sizes are the agent's own, not the checkpoint's. Saved on a
        device of another kind, networks and optimisers are the same and random numbers begin anew.

        Raises:
            CheckpointError: if it is of another agent, or of networks of other sizes.
        """
        if state.get("agent") != self.name:
            raise CheckpointError(
                f"the checkpoint is of agent {state.get('agent')!r}, not {self.name!r}"
            )
        self.learner.load_state_dict(select(tensors, "learner/"), state["learner"])
        self.preprocessing.load_state_dict(
            select(tensors, "preprocessing/"), state["preprocessing"]
        )
        self._set_transform()
        saved_on = str(state.get("device", self.device.type))  # older checkpoints lack it
        restore_generator(self.sampling_generator, tensors["generators/sampling"], saved_on)
        restore_generator(self.exploration_generator, tensors["generators/exploration"], saved_on)
        self._switch(online=bool(state.get("online", False)))  # older checkpoints lack it
        self.num_timesteps = int(state["num_timesteps"])
        self.interaction = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return an equal, independent agent made from spaces, with a copy of the replay buffer.

        Copying attribute by attribute would part the networks from their flat buffers.
        """
        spaces = self.observation_space, self.action_space
        settings = self.settings.to_dict()
        copied = type(self)(
            spaces, seed=self.seed, device=self.device, accelerated=self._accelerated, **settings
        )
        copied.load_state_dict(*self.state_dict())
        copied.dataset = self.dataset
        if self.replay_buffer is not None:
            copied.replay_buffer = GrowingReplay(
                self.layout, self.replay_buffer.capacity, self.device
            )
            copied.replay_buffer.load_state_dict(*self.replay_buffer.state_dict())
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> Any:
        raise TypeError("agents are not pickled: use save and load, or copy.deepcopy")

    def _set_transform(self) -> None:
        self._transform = self.preprocessing.transform(
            self.layout, self.action_scale, self.action_limit, self.device
        )

    def _generator(self, seed: Any) -> torch.Generator:
        return torch.Generator(device=self.device).manual_seed(int(seed))
