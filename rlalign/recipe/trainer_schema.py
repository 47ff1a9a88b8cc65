"""What a recipe of a preference trainer may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, StrictStr, model_validator

from rlalign.recipe.schema import (
    Checkpointing,
    Count,
    Logging,
    Name,
    Positive,
    Rate,
    Section,
    Share,
)

# Fields of transformers.TrainingArguments that other sections of a recipe decide.
DECIDED_ELSEWHERE = {
    "output_dir": "the run directory (--out)",
    "seed": "seed",
    "logging_steps": "logging.every",
    "logging_strategy": "logging.every",
    "save_steps": "checkpoint.every",
    "save_strategy": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "eval_steps": "evaluation.every",
    "eval_strategy": "evaluation.every",
    "report_to": "logging",
    "resume_from_checkpoint": "`rlalign resume`",
    "disable_tqdm": "--progress",
    "use_cpu": "device",
    "model_init_kwargs": "model",
    "trust_remote_code": "nothing: rlalign never runs code that comes with a model",
}


def _dataset_name(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a dataset's name or path")
    return value


DatasetName = Annotated[str, BeforeValidator(_dataset_name)]


class Model(Section):
    """The causal language model that is trained."""

    name: Name = Field(description="a local folder, a name on the hub, or 'textworld'")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    attention: Name | None = Field(
        default=None, description="attn_implementation, such as 'sdpa' or 'flash_attention_2'"
    )
    revision: StrictStr | None = Field(default=None, description="on the hub")
    tokenizer: Name | None = Field(default=None, description="default: the model's")


class Peft(Section):
    """A LoRA adapter; without this section all weights are trained."""

    r: Positive = 16
    alpha: Positive = 32
    dropout: Share = Field(default=0.0, description="above 0 needs training.disable_dropout=false")
    target_modules: StrictStr | list[StrictStr] = "all-linear"


class Data(Section):
    """How the datasets are read."""

    split: Name = Field(default="train", description="of a folder or hub dataset")
    evaluation_split: Name | None = Field(
        default=None,
        description="of evaluation_dataset, or of the same dataset where that is not given, and of "
        "evaluation.more; single files are read as they are",
    )
    configuration: Name | None = Field(default=None, description="of `dataset`, on the hub")
    revision: Name | None = Field(default=None, description="of `dataset`, on the hub")
    streaming: StrictBool = Field(default=False, description="needs training.max_steps")
    limit: Positive | None = Field(default=None, description="training pairs at most")
    evaluation_limit: Positive | None = Field(default=None, description="held-out pairs at most")
    evaluation_share: Share = Field(
        default=0.0, description="of the training pairs, held out where nothing else is"
    )
    max_prompt_length: Positive | None = Field(
        default=None, description="tokens; pairs with longer prompts are left out"
    )
    invalid: Literal["error", "drop"] = "error"
    drop_identical: StrictBool = True


class Judge(Section):
    """An OpenAI-compatible endpoint that says which of two answers is better."""

    url: Name = Field(description="up to and including /v1")
    model: Name
    key_variable: Name | None = Field(
        default=None, description="environment variable that holds the key"
    )
    instruction: StrictStr | None = Field(default=None, description="default: a general one")
    timeout: Rate = 60.0


class PreferenceEvaluation(Section):
    """Held-out pairs while training; samples, win rate and KL at the end."""

    every: Positive = Field(default=100, description="optimiser steps")
    more: dict[str, DatasetName] = Field(
        default_factory=dict, description="further held-out datasets by a name of your own"
    )
    prompts: Count = Field(default=64, description="prompts to sample for; 0: no samples")
    temperature: Rate = 1.0
    max_new_tokens: Positive = 128
    batch_size: Positive = 32
    reward: Name | None = Field(
        default=None,
        description="'textworld', 'PACKAGE.MODULE:FUNCTION', 'FILE.py:FUNCTION', or the folder or "
        "hub name of a sequence-classification reward model",
    )
    judge: Judge | None = None
    revisions: Count = Field(default=0, description="self-revisions of each sample (SRPO)")
    shown: Count = Field(default=8, description="samples in the report")
    early_stopping: Positive | None = Field(
        default=None, description="evaluations without improvement before training stops"
    )


class TrainerLogging(Logging):
    """Where metrics go; `metrics.jsonl` is always written."""

    every: Positive = Field(default=10, description="optimiser steps")


class TrainerCheckpointing(Checkpointing):
    """How often the whole state is saved."""

    every: Positive = Field(default=100, description="optimiser steps")


class TrainerRecipe(Section):
    """A whole run of one preference trainer.

    Raises `pydantic.ValidationError`; `load_any_recipe` turns it into one sentence.
    """

    trainer: Name = Field(description="'dpo', 'simpo', 'hypo' or 'srpo'")
    model: Model
    dataset: DatasetName
    evaluation_dataset: DatasetName | None = None
    seed: Count = 0
    device: Literal["auto", "cpu"] = Field(
        default="auto", description="'auto': GPUs where there are any"
    )
    peft: Peft | None = None
    data: Data = Data()
    training: dict[str, Any] = Field(
        default_factory=dict, description="the trainer's config, field for field"
    )
    evaluation: PreferenceEvaluation = PreferenceEvaluation()
    checkpoint: TrainerCheckpointing = TrainerCheckpointing()
    logging: TrainerLogging = TrainerLogging()

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        for name, where in DECIDED_ELSEWHERE.items():
            if name in self.training:
                raise ValueError(f"says training.{name}, which is decided by {where}")
        if self.peft and self.peft.dropout and self.training.get("disable_dropout", True):
            # TRL sets every dropout of the policy to 0, the adapter's as well.
            raise ValueError("has peft.dropout, which needs training.disable_dropout=false")
        if self.data.streaming and not self.training.get("max_steps"):
            raise ValueError("has data.streaming, which needs training.max_steps: no end is known")
        if self.data.streaming and self.data.evaluation_share:
            raise ValueError("has data.evaluation_share, which a streamed dataset cannot be cut by")
        return self

    def to_dict(self) -> dict[str, Any]:
        """The recipe with every default written out, as plain JSON and YAML types."""
        return self.model_dump(mode="json")
