"""Atomic files: tensors as safetensors, the rest as JSON, nothing pickled."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rlalign.atomic import follow_umask, sync_directory, write_atomic
from rlalign.errors import CheckpointError

State = tuple[dict[str, Tensor], dict[str, Any]]
_KEY = "rlalign"  # where the JSON part lies in a safetensors header
_PHASES = ("offline", "online")  # in their order
_REPLACED = ".replaced-"  # before the name of a checkpoint that is being written again


def join(**parts: State) -> State:
    """Return the states of several objects as one; `part` takes it apart."""
    tensors = {
        f"{name}/{key}": tensor for name, (held, _) in parts.items() for key, tensor in held.items()
    }
    return tensors, {name: values for name, (_, values) in parts.items()}


def part(state: State, name: str) -> State:
    """Return one object's state out of what `join` made."""
    tensors, values = state
    return select(tensors, f"{name}/"), values[name]


def select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries under a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_state(path: str | Path, state: State) -> None:
    """Write tensors and JSON-able values into one safetensors file.

    Args:
        path: the file; a name ending in ``.zip`` (stable-baselines3's callbacks choose that)
            holds the same file in a zip archive.
        state: tensors by name, and values that JSON can hold.
    """
    from safetensors.torch import save

    path = Path(path)
    tensors, values = state
    data = save(_contiguous(tensors), metadata={_KEY: json.dumps(values)})
    if path.suffix == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("agent.safetensors", data)
        data = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def load_state(path: str | Path) -> State:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: if the file is missing, damaged, or not one of rlalign's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    data = path.read_bytes()
    if path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                data = archive.read("agent.safetensors")
        except (zipfile.BadZipFile, KeyError) as error:
            raise CheckpointError(
                f"{path}: not an archive written by rlalign; models of stable-baselines3 are read "
                "by rlalign.interop.sb3.load_sb3_policy"
            ) from error
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        values = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged, or not a file written by rlalign") from error
    return tensors, values


class Checkpoints:
    """The checkpoints of one run: written whole or not at all, the newest `keep` kept.

    Args:
        directory: holds one folder per checkpoint and the file ``latest``.
        keep: how many to keep, at least 1.
    """

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory)
        self.keep = keep

    def save(self, name: str, state: State) -> Path:
        """Write a checkpoint and point ``latest`` at it; older ones beyond `keep` go."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._recover()
        tensors, values = state
        from safetensors.torch import save

        data = save(_contiguous(tensors))
        record = {"sha256": hashlib.sha256(data).hexdigest(), "state": values}
        temporary = Path(tempfile.mkdtemp(dir=self.directory, prefix=".unfinished-"))
        follow_umask(temporary)
        write_atomic(temporary / "state.safetensors", data)
        write_atomic(temporary / "state.json", _seal(record))
        final = self.directory / name
        replaced = self.directory / f"{_REPLACED}{name}"
        if final.exists():  # set aside at once: to delete it takes time, and `latest` may name it
            os.replace(final, replaced)
        os.replace(temporary, final)
        sync_directory(self.directory)
        write_atomic(self.directory / "latest", name.encode())
        for old in self.names()[: -self.keep]:
            if old != name:
                shutil.rmtree(self.directory / old)
        self._recover()
        return final

    def go_back_to(self, name: str) -> None:
        """Make a checkpoint that is there the latest, and drop those made after it."""
        later = self.names()
        later = later[later.index(name) + 1 :]
        write_atomic(self.directory / "latest", name.encode())
        for one in later:
            shutil.rmtree(self.directory / one)

    def names(self) -> list[str]:
        """Return the checkpoints' names in the order of training: PHASE-STEP, others by age."""
        folders = [path for path in self.directory.glob("[!.]*") if path.is_dir()]
        return [path.name for path in sorted(folders, key=_order)]

    @property
    def latest(self) -> str | None:
        """The name in the file ``latest``; the newest one's where that is lost; None: no one's."""
        pointer = self.directory / "latest"
        if pointer.is_file():
            name = pointer.read_text(errors="replace").strip()
            if name:
                return name
        return self.names()[-1] if self.names() else None

    def load(self, name: str = "latest") -> State:
        """Read a checkpoint.

        Raises:
            CheckpointError: if there is none, or it is damaged or was changed; others that are
                there are named.
        """
        if name == "latest":
            latest = self.latest
            if latest is None:
                raise CheckpointError(f"{self.directory}: holds no checkpoint")
            name = latest
        try:
            return self._read(self._folder(name))
        except CheckpointError as error:
            others = [other for other in self.names() if other != name]
            known = f"; there are {', '.join(others)}" if others else ""
            raise CheckpointError(f"{error}{known}") from error

    def _folder(self, name: str) -> Path:
        """A checkpoint's folder, or where a `save` that did not end had set it aside."""
        folder, aside = self.directory / name, self.directory / f"{_REPLACED}{name}"
        return aside if aside.is_dir() and not folder.exists() else folder

    @staticmethod
    def _read(folder: Path) -> State:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            record = _unseal((folder / "state.json").read_bytes())
            data = (folder / "state.safetensors").read_bytes()
        except FileNotFoundError as error:
            what = "no such checkpoint" if not folder.is_dir() else "a checkpoint without its files"
            raise CheckpointError(f"{folder}: {what}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / 'state.json'}: damaged or changed") from error
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise CheckpointError(f"{folder / 'state.safetensors'}: damaged or changed")
        try:
            return load(data), record["state"]
        except SafetensorError as error:
            raise CheckpointError(f"{folder / 'state.safetensors'}: damaged") from error

    def _recover(self) -> None:
        """Put back what was set aside by a `save` that did not end; remove what it left else."""
        for path in self.directory.glob(f"{_REPLACED}*"):
            final = path.with_name(path.name.removeprefix(_REPLACED))
            if final.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.replace(path, final)
        for path in self.directory.glob(".unfinished-*"):
            shutil.rmtree(path, ignore_errors=True)


def _order(folder: Path) -> tuple[int, int, int]:
    # A copy of a run has other times of change: they decide only where names say nothing.
    phase, _, step = folder.name.rpartition("-")
    place = _PHASES.index(phase) if phase in _PHASES else -1
    return place, int(step) if step.isdecimal() else -1, folder.stat().st_mtime_ns


def _seal(record: dict[str, Any]) -> bytes:
    """Return JSON with its own digest, so that a change does not go unnoticed."""
    body = json.dumps(record, sort_keys=True)
    return json.dumps({"digest": hashlib.sha256(body.encode()).hexdigest(), "body": body}).encode()


def _unseal(data: bytes) -> dict[str, Any]:
    envelope = json.loads(data)
    if hashlib.sha256(envelope["body"].encode()).hexdigest() != envelope["digest"]:
        raise ValueError("digest differs")
    record: dict[str, Any] = json.loads(envelope["body"])
    return record
