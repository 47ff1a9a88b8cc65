"""Preference data: pairs of completions of which one is preferred, in all formats of TRL."""

from __future__ import annotations

from rlalign.data.preferences.loading import is_preference_name, load_preferences
from rlalign.data.preferences.messages import chat_arguments

__all__ = ["chat_arguments", "is_preference_name", "load_preferences"]
