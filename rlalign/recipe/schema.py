"""What a recipe may say: one frozen pydantic model a section, unknown keys refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    model_validator,
)


def _whole_number(value: Any) -> Any:
    """Accept 1000000 and 1e6, refuse "1000000", true and 1.5."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("expected a whole number")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("expected a number")
    return value


def _steps_or_episode(value: Any) -> Any:
    if value == "episode":
        return value
    wrong = "expected a whole number of at least 1 or 'episode'"
    try:
        steps = _whole_number(value)
    except ValueError as error:
        raise ValueError(wrong) from error
    if steps < 1:
        raise ValueError(wrong)
    return steps


Count = Annotated[int, BeforeValidator(_whole_number), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(_whole_number), Field(ge=1)]
Rate = Annotated[float, BeforeValidator(_number), Field(gt=0.0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0.0, le=1.0)]
StepsOrEpisode = Annotated[int | Literal["episode"], BeforeValidator(_steps_or_episode)]
Device = Annotated[StrictStr, Field(pattern=r"^(cpu|cuda(:\d+)?)$")]
Name = Annotated[StrictStr, Field(min_length=1)]


class Section(BaseModel):
    """Base of all sections: frozen, and a key that does not exist is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Offline(Section):
    """The phase that learns from the dataset alone."""

    steps: Count = Field(default=0, description="gradient updates")


class Online(Section):
    """The phase that acts in the environment; null stands for the agent's own default."""

    steps: Count = Field(default=0, description="environment steps")
    environments: Positive | None = Field(default=None, description="stepped together")
    updates_per_step: Rate | None = Field(default=None, description="updates per environment step")
    update_after: StepsOrEpisode | None = Field(
        default=None, description="steps, or 'episode', after which the updates due are made"
    )
    warmup_steps: Count | None = Field(default=None, description="steps before the first update")
    random_steps: Count | None = Field(
        default=None, description="first steps, with random actions (none after offline.steps)"
    )
    exploration: Literal["policy", "deterministic"] | None = Field(
        default=None, description="'policy': as the agent explores; 'deterministic': without noise"
    )
    replay: Literal["union", "online", "mixture", "annealed"] | None = Field(
        default=None,
        description="'union': dataset and new transitions as one buffer; 'online': new ones only; "
        "'mixture': a fixed share of each batch from the dataset; 'annealed': a moving share",
    )
    offline_fraction: Share | None = Field(
        default=None, description="share of the dataset in a mixture; where 'annealed' starts"
    )
    final_offline_fraction: Share | None = Field(
        default=None, description="where the share of 'annealed' ends"
    )
    anneal_steps: Positive | None = Field(
        default=None, description="environment steps over which the share of 'annealed' moves"
    )
    buffer_size: Positive | None = Field(default=None, description="new transitions kept")
    reset_optimizers: StrictBool | None = Field(
        default=None, description="begin with fresh optimisers"
    )


class Evaluation(Section):
    """Episodes with the deterministic policy on separate environments."""

    episodes: Positive = Field(default=10, description="episodes per evaluation")
    every: Positive | None = Field(
        default=5_000,
        description="updates (offline), environment steps (online); null: no evaluation",
    )
    online_every: Positive | None = Field(
        default=None, description="environment steps; null: as `every`"
    )


class Checkpointing(Section):
    """How often the whole state is saved."""

    every: Positive = Field(
        default=10_000, description="updates (offline), environment steps (online)"
    )
    keep: Positive = Field(default=2, description="checkpoints kept")


class Logging(Section):
    """Where metrics go; `metrics.jsonl` is always written."""

    every: Positive = Field(default=1_000, description="updates or environment steps")
    tensorboard: StrictBool = True
    wandb: StrictBool = False
    trackio: StrictBool = False


class Recipe(Section):
    """A whole run of one agent, offline, online, or one after the other.

    Raises `pydantic.ValidationError`; `load_recipe` and `parse_recipe` turn it into one sentence.
    """

    agent: Name = Field(description="an agent of rlalign.agents, for example 'iql'")
    environment: Name | None = Field(default=None, description="default: the dataset's")
    environment_options: dict[str, Any] | None = Field(
        default=None, description="what the environment is made with; default: the dataset's"
    )
    dataset: Name | None = Field(default=None, description="null for purely online runs")
    seed: Count = 0
    device: Device = "cpu"
    settings: dict[str, Any] = Field(default_factory=dict, description="the agent's settings")
    offline: Offline = Offline()
    online: Online = Online()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpointing = Checkpointing()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        if self.environment is None and self.dataset is None:
            raise ValueError("names neither a dataset nor an environment")
        if self.offline.steps and self.dataset is None:
            raise ValueError("has offline.steps but no dataset")
        if not self.offline.steps and not self.online.steps:
            raise ValueError("trains nothing: offline.steps and online.steps are both 0")
        mixes = self.online.replay in ("mixture", "annealed")
        if self.online.steps and mixes and self.dataset is None:
            raise ValueError(f"has online.replay {self.online.replay!r} but no dataset to mix in")
        return self

    def to_dict(self) -> dict[str, Any]:
        """The recipe with every default written out, as plain JSON and YAML types."""
        return self.model_dump(mode="json")
