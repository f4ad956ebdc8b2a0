"""Measured steps, and the named table that plans are made from where no probe was run."""

from __future__ import annotations

from dataclasses import dataclass

from research_internlm.model.device_memory import GIB
from research_internlm.planning.flops import Shape


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured shape.

    Attributes:
        shape: What a step computed on.
        step_ms: Median time of a step, milliseconds.
        peak_bytes: Most memory of one card, or None where it was not measured.
    """

    shape: Shape
    step_ms: float
    peak_bytes: int | None = None


def _h100(rows: int, seq_length: int, packed: bool, recompute: bool, head_places: int, step_ms: float,
          peak_gib: float) -> Point:
    return Point(shape=Shape(rows=rows, seq_length=seq_length, packed=packed, recompute=recompute,
                             head_places=head_places), step_ms=step_ms, peak_bytes=round(peak_gib * GIB))


TABLE_NAME = "H100 table"
TABLE_SOURCE = ("InternLM-7B's shape with random weights, LoRA rank 16 on q, k, v, o, bfloat16, PyTorch and "
                "PEFT on one H100 of 80 GB, 25 Nov 2026, median of 9 steps after 3; no NPU was measured")
TABLE = (  # rows, length, packed, recompute, head places a row, ms a step, peak GiB
    _h100(4, 1024, False, True, 1024, 490, 21.3),
    _h100(4, 1024, False, True, 32, 485, 15.9),
    _h100(4, 1024, False, False, 1024, 364, 42.4),
    _h100(4, 1024, False, False, 32, 348, 36.5),
    _h100(1, 576, True, True, 96, 440, 14.2),
    _h100(1, 576, True, False, 96, 220, 17.2),
    _h100(1, 1024, True, True, 160, 456, 14.5),
    _h100(1, 1024, True, False, 160, 238, 19.7),
    _h100(1, 2048, True, False, 320, 232, 25.5),
    _h100(4, 1024, True, False, 160, 366, 37.1),
    _h100(1, 288, True, False, 48, 235, 15.6),
)
# Published training speed (MindFormers r1.1.0, research/internlm/internlm.md): InternLM-7B, full fine-tuning,
# rows of 2,048 tokens, a card of an Atlas 800T A2.
PUBLISHED_TOKENS_PER_SECOND = 3250
