"""The forms in which quantised weights are handed over: names, types and values of tensors. numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from research_internlm.checkpoints import dtypes, weight_names
from research_internlm.checkpoints.dtypes import Entry
from research_internlm.quantisation.awq_format import BITS, PARTS, PER_WORD, Groups, to_gemm

FP16, FP32 = dtypes.FLAG_TYPES["fp16"], dtypes.FLAG_TYPES["fp32"]
_INT8, _INT32 = np.dtype("i1"), np.dtype("<i4")
_MOST_INT8 = 127
NEVER_RUN = ("converted after the rules of MindSpore Golden Stick (tools/convert_awq_pt2ms.py, PTQ with "
             "qint4x2 in groups); never loaded by MindFormers and never run on an NPU by this toolkit")
MODELSLIM_DESCRIPTION = "quant_model_description.json"


@dataclass(frozen=True)
class Layout:
    """One form.

    Attributes:
        bits: Of a weight.
        is_llama: Whether the tensors have Llama's names, with config.json and tokenizer files beside them;
            otherwise MindFormers', in a MindSpore checkpoint.
        entries: Shapes and types of the tensors that stand for a linear weight, by what follows the layer's
            name; from its outputs, inputs and group size.
        values: Their values, of the weight: Groups for 4 bits, float32 (out, in) for 8.
        settings: What config.json says of the quantisation; None says nothing.
    """

    bits: int
    is_llama: bool
    entries: Callable[[int, int, int], dict[str, Entry]]
    values: Callable[[Any], dict[str, np.ndarray]]
    settings: Callable[[int], dict[str, Any]] | None = None

    def cell(self, name: str) -> str:
        """What the tensors of a linear layer's parameter are named after, from MindFormers' name of it."""
        if self.is_llama:
            return weight_names.to_hf(name).rpartition(".")[0] + "."
        return name.rpartition(".")[0] + "._layer."

    def plain(self, name: str, of_linear: bool) -> str:
        """The name of a parameter that is not quantised."""
        if self.is_llama:
            return weight_names.to_hf(name)
        return self.cell(name) + name.rpartition(".")[2] if of_linear else name


def _awq_entries(rows: int, columns: int, group_size: int) -> dict[str, Entry]:
    groups = columns // group_size
    words = rows // PER_WORD
    return dict(zip(PARTS, (Entry((columns, words), _INT32), Entry((groups, words), _INT32),
                            Entry((groups, rows), FP16)), strict=True))


def _awq_settings(group_size: int) -> dict[str, Any]:
    return {"quant_method": "awq", "version": "gemm", "bits": BITS, "group_size": group_size,
            "zero_point": True, "modules_to_not_convert": None}


def _modelslim_entries(rows: int, columns: int, _: int) -> dict[str, Entry]:
    return {"weight": Entry((rows, columns), _INT8), "weight_scale": Entry((rows, 1), FP32),
            "weight_offset": Entry((rows, 1), FP32)}


def int8_rows(weight: np.ndarray) -> dict[str, np.ndarray]:
    """A weight in 8 bits, symmetric, a scale a row: a value is (number + offset) * scale, with offset 0.

    Source: vllm_ascend/quantization/methods/w8a16.py, which hands all three to npu_weight_quant_batchmatmul.
    """
    scale = np.maximum(np.abs(weight).max(1, keepdims=True), np.finfo(np.float16).tiny) / _MOST_INT8
    scale = scale.astype(np.float32)
    return {"weight": np.clip(np.rint(weight / scale), -_MOST_INT8, _MOST_INT8).astype(np.int8),
            "weight_scale": scale, "weight_offset": np.zeros_like(scale)}


def _golden_stick_entries(rows: int, columns: int, group_size: int) -> dict[str, Entry]:
    groups = columns // group_size
    return {"weight": Entry((columns, rows // 2), dtypes.INT4X2),
            "matmul.weight_scale": Entry((groups, rows), FP16),
            "matmul.weight_zp": Entry((groups, rows), FP16)}


def int4_pairs(groups: Groups) -> dict[str, np.ndarray]:
    """A weight as MindSpore's qint4x2: signed numbers, two neighbouring columns of the transpose in a byte.

    The operator computes (number + zp) * scale, so the zero is stored negated, and both are shifted by 8.
    """
    signed = groups.numbers.T.astype(np.int8) - 8
    nibbles = signed.astype(np.uint8) & 15
    pairs = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
    return {"weight": np.ascontiguousarray(pairs).view(dtypes.INT4X2),
            "matmul.weight_scale": np.ascontiguousarray(groups.scales.T),
            "matmul.weight_zp": (8 - groups.zeros.T.astype(np.float32)).astype(np.float16)}


FORMATS: Mapping[str, Layout] = MappingProxyType({
    "awq": Layout(BITS, True, _awq_entries, to_gemm, _awq_settings),
    "modelslim": Layout(8, True, _modelslim_entries, int8_rows),
    "mindspore": Layout(BITS, False, _golden_stick_entries, int4_pairs),
})
