"""Trainers that align language models with preferences, on TRL; imported when first used."""

from __future__ import annotations
