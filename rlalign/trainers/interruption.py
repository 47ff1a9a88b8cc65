"""A signal to stop becomes a checkpoint and an orderly end of training."""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch
from transformers import TrainerCallback


class SaveOnSignal(TrainerCallback):
    """After SIGTERM: finish the optimiser step, save a checkpoint, end training.

    `received` is then the signal's number on all processes, and otherwise None. Handlers are in
    place only while training runs in the main thread.

    Args:
        signals: which signals to catch.
    """

    def __init__(self, signals: tuple[int, ...] = (signal.SIGTERM,)) -> None:
        self.signals = signals
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Put the handlers in place."""
        self.received = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.signals}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint and the end, on all processes as soon as one was told to stop."""
        self.received = _anywhere(self.received, args.device)
        if self.received is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give the signals back."""
        self.release()

    def release(self) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _: object) -> None:
        self.received = number


def _anywhere(received: int | None, device: torch.device) -> int | None:
    """The signal that one of the processes was sent, the same on all of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return received
    number = torch.tensor(received or 0, device=device)
    torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
    return int(number) or None
