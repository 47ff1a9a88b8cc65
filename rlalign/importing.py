"""Python objects that recipes name: ``package.module:name`` or ``file.py:name``."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def module_of(source: str) -> ModuleType:
    """Import a module by its name or its file's path ending in ``.py``.

    Raises whatever the import raises; FileNotFoundError where there is no such file.
    """
    if source.endswith(".py"):
        return _from_file(Path(source).resolve())
    return importlib.import_module(source)


@functools.cache
def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError("no such file")
    # Named by its path, so that files of one name do not meet.
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their annotations up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def reason(error: Exception) -> str:
    """Return a failure in a few words: its first line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removesuffix(".")
