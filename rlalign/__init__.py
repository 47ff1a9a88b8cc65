"""rlalign: reinforcement learning and preference alignment on one replay-and-policy core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlalign.data.dataset import Dataset, load_dataset

__version__ = "0.1.0"
__all__ = ["Dataset", "__version__", "load_dataset"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `import rlalign` and `rlalign --help` must not pay for it.
    if name in ("Dataset", "load_dataset"):
        from rlalign.data import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'rlalign' has no attribute {name!r}")
