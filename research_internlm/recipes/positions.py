"""Positions of a row that the rotary angles are right for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research_internlm.shared.arguments import is_whole


def length_problem(model_config: Mapping[str, Any]) -> str | None:
    """Why rows of this length cannot be computed as the release does; None where they can.

    A "dynamic" scaling changes the rotary angles only of rows longer than max_position_embedding
    (transformers' modeling_rope_utils.py), and nothing here computes that.
    """
    scaling, longest = model_config.get("rope_scaling"), model_config.get("max_position_embedding")
    length = model_config.get("seq_length")
    if scaling is not None and not isinstance(scaling, Mapping):
        return (f"model.model_config.rope_scaling is {scaling!r}; it must be the release's, such as "
                "{rope_type: dynamic, factor: 2.0}")
    if not scaling or not (is_whole(longest, 1) and is_whole(length, 1)) or length <= longest:
        return None
    return (f"model.model_config.seq_length is {length}, but beyond max_position_embedding {longest} the "
            f"release scales its rotary angles ({dict(scaling)}), which is not computed here: set seq_length "
            f"to at most {longest}")
