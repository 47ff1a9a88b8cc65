"""The words of the text world, and which of them which split may use."""

from __future__ import annotations

from collections.abc import Mapping

# What a request can ask for, with the values it can take. No word stands for two things, so
# that a sentence says what it says by its words alone.
FACTS: Mapping[str, tuple[str, ...]] = {
    "size": ("tiny", "small", "big", "huge"),
    "colour": ("red", "blue", "green", "grey", "white", "black"),
    "place": ("forest", "river", "village", "desert", "harbour", "garden", "mountain", "meadow"),
    "time": ("dawn", "noon", "dusk", "midnight"),
    "mood": ("happy", "sad", "angry", "calm", "tired", "curious"),
    "item": ("lantern", "map", "key", "rope", "book", "drum"),
    "friend": ("miller", "sailor", "baker", "hunter", "painter", "piper"),
}
KNOWN_SUBJECTS = ("fox", "bear", "owl", "wolf", "hare", "crow", "cat", "goat", "frog", "deer")
NEW_SUBJECTS = ("mouse", "horse", "swan", "mole")
SUBJECTS = KNOWN_SUBJECTS + NEW_SUBJECTS
VERBS = ("waits", "sits", "walks", "sleeps", "sings")
FILLERS = ("all is well", "what a day it is", "there is more to tell", "so the story goes")
