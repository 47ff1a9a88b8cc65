"""The agents: one file each, holding the networks and the losses of a paper."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlalign.agent import Agent
    from rlalign.agents.awac import AWAC
    from rlalign.agents.bc import BC
    from rlalign.agents.cal_ql import CalQL
    from rlalign.agents.cql import CQL
    from rlalign.agents.edac import EDAC
    from rlalign.agents.famo2o import FamO2OAWAC, FamO2OCQL, FamO2OIQL
    from rlalign.agents.iql import IQL
    from rlalign.agents.rebrac import ReBRAC
    from rlalign.agents.rlpd import RLPD
    from rlalign.agents.ro2o import RO2O
    from rlalign.agents.rorl import RORL
    from rlalign.agents.sac import SAC
    from rlalign.agents.sac_n import SACN
    from rlalign.agents.td3 import TD3
    from rlalign.agents.td3_bc import TD3BC

# Name in recipes -> (module, class). Agents are imported when first asked for.
_AGENTS = {
    "awac": ("awac", "AWAC"),
    "bc": ("bc", "BC"),
    "cal_ql": ("cal_ql", "CalQL"),
    "cql": ("cql", "CQL"),
    "edac": ("edac", "EDAC"),
    "famo2o_awac": ("famo2o", "FamO2OAWAC"),
    "famo2o_cql": ("famo2o", "FamO2OCQL"),
    "famo2o_iql": ("famo2o", "FamO2OIQL"),
    "iql": ("iql", "IQL"),
    "rebrac": ("rebrac", "ReBRAC"),
    "rlpd": ("rlpd", "RLPD"),
    "ro2o": ("ro2o", "RO2O"),
    "rorl": ("rorl", "RORL"),
    "sac": ("sac", "SAC"),
    "sac_n": ("sac_n", "SACN"),
    "td3": ("td3", "TD3"),
    "td3_bc": ("td3_bc", "TD3BC"),
}
_CLASSES = {name: module for module, name in _AGENTS.values()}

__all__ = [
    "AGENTS",
    "AWAC",
    "BC",
    "CQL",
    "EDAC",
    "IQL",
    "RLPD",
    "RO2O",
    "RORL",
    "SAC",
    "SACN",
    "TD3",
    "TD3BC",
    "CalQL",
    "FamO2OAWAC",
    "FamO2OCQL",
    "FamO2OIQL",
    "ReBRAC",
]


class _Registry(Mapping[str, "type[Agent]"]):
    def __getitem__(self, name: str) -> type[Agent]:
        module, attribute = _AGENTS[name]
        agent: type[Agent] = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        return agent

    def __iter__(self) -> Iterator[str]:
        return iter(_AGENTS)

    def __len__(self) -> int:
        return len(_AGENTS)


AGENTS: Mapping[str, type[Agent]] = _Registry()
"""Agent classes by the name that recipes use."""


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(importlib.import_module(f"{__name__}.{_CLASSES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
