"""stable-baselines3's callbacks for `learn`."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    ConvertCallback,
    ProgressBarCallback,
)

from rlalign.errors import MissingPackageError, SettingsError


def as_callback(callback: Any, agent: Any, *, progress_bar: bool = False) -> BaseCallback:
    """`callback` as one initialised BaseCallback of `agent`.

    `callback` is None, a BaseCallback, a function of (locals, globals) that returns False to stop,
    or a list of these. Raises SettingsError for anything else, MissingPackageError where the
    progress bar's packages are absent.
    """
    whole = _converted([] if callback is None else callback)
    if progress_bar:
        whole = CallbackList([whole, _progress_bar()])
    whole.init_callback(agent)
    return whole


def _converted(callback: Any) -> BaseCallback:
    if isinstance(callback, BaseCallback):
        return callback
    if isinstance(callback, list | tuple):
        return CallbackList([_converted(part) for part in callback])
    if callable(callback):
        return ConvertCallback(callback)
    raise SettingsError(
        f"callback must be a stable-baselines3 callback, a function or a list of these, "
        f"got {type(callback).__name__}"
    )


def _progress_bar() -> BaseCallback:
    try:
        return ProgressBarCallback()
    except ImportError as error:
        raise MissingPackageError(
            "progress_bar=True needs tqdm and rich; install them with: pip install tqdm rich"
        ) from error
