"""Segments: what a rendered sample is made of before it is encoded."""

from __future__ import annotations

import functools
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A piece of a sample.

    Attributes:
        content: Text to be encoded, or the role of a special token.
        is_token: True where `content` is a role such as `end_of_user`.
        supervised: Whether the model is trained to produce it.
    """

    content: str
    is_token: bool = False
    supervised: bool = False


@functools.cache
def special_token(role: str, supervised: bool = False) -> Segment:
    """The segment of a special token."""
    return Segment(role, is_token=True, supervised=supervised)
