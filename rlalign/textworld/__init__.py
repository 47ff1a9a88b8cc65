"""A small generated world of text with a known reward, and a language model taught to speak it.

Everything is made on this machine: nothing is downloaded.
"""

from __future__ import annotations

from rlalign.textworld.pairs import preference_pairs
from rlalign.textworld.reward import Judgement, judge, reward

__all__ = ["Judgement", "judge", "preference_pairs", "reward"]
