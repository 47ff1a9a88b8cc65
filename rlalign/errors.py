"""What a user can put right: each error is one sentence, and the command line exits with 2."""

from __future__ import annotations


class RlalignError(Exception):
    """Base of every error caused by input, settings, files or the machine rather than by a bug."""


class DatasetError(RlalignError):
    """A dataset is missing, damaged, or does not fit the task."""


class DownloadError(DatasetError):
    """A dataset could not be fetched."""


class RecipeError(RlalignError):
    """A recipe or an override is wrong."""


class SettingsError(RlalignError, ValueError):
    """A setting of an agent lies outside its range or does not exist.

    Args:
        sentence: what is wrong.
        setting: its name, where it is one setting that is wrong.
    """

    def __init__(self, sentence: str, setting: str = "") -> None:
        super().__init__(sentence)
        self.setting = setting


class CheckpointError(RlalignError):
    """A checkpoint or run directory is missing, damaged, or belongs to something else."""


class EnvError(RlalignError):
    """An environment is unknown, unsupported, or behaves against its interface."""


class TrainingError(RlalignError):
    """Training cannot go on, for example because a loss is not finite."""


class MissingPackageError(RlalignError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class ModelError(RlalignError):
    """A language model or its tokenizer is missing, damaged, or does not fit."""
