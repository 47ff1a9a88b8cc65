"""Preference data: pairs of completions of which one is preferred, in all formats of TRL."""

from __future__ import annotations

from rlalign.data.preferences.loading import is_preference_name, load_preferences

__all__ = ["is_preference_name", "load_preferences"]
