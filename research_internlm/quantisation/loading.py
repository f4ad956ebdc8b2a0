"""Quantised folders -> one 16-bit checkpoint, which the toolkit's network loads on any device.

No kernel for 4-bit weights is needed then, nor any memory saved: this is for measuring what the rounding
costs, and for trying the folder where it was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm.checkpoints import hf_config, weight_names
from research_internlm.checkpoints.dtypes import Entry, cast
from research_internlm.checkpoints.hf_folder import HfFolder
from research_internlm.checkpoints.tensor_files import row_blocks, write_tensors
from research_internlm.quantisation.awq_format import BITS, PARTS, PER_WORD, from_gemm
from research_internlm.quantisation.formats import FP16, MODELSLIM_DESCRIPTION
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, write_manifest

_INT8_PARTS = ("weight", "weight_scale", "weight_offset")


def is_quantized(folder: Path) -> bool:
    """Whether a folder holds quantised weights of Hugging Face's form."""
    if not (folder / "config.json").is_file():
        return False
    config = read_json(folder / "config.json", "the model's config")
    return isinstance(config, dict) and (
        bool(config.get("quantization_config")) or (folder / MODELSLIM_DESCRIPTION).exists())


def bits_of(folder: Path) -> int:
    """Bits of a folder's quantised weights: 4 (AWQ) or 8 (ModelSlim W8A16).

    Raises:
        ToolkitError: Not quantised, or in another form.
    """
    config = read_json(folder / "config.json", "the model's config", "give a folder of weights.py quantize")
    settings = config.get("quantization_config") if isinstance(config, dict) else None
    if settings is None and (folder / MODELSLIM_DESCRIPTION).exists():
        kinds = read_json(folder / MODELSLIM_DESCRIPTION, "the description of the quantised weights")
        if isinstance(kinds, dict) and set(map(str, kinds.values())) <= {"W8A16", "FLOAT"}:
            return 8
        raise ToolkitError(f"{folder} is quantised in a ModelSlim form that is not read here; W8A16 is")
    if not isinstance(settings, dict) or settings.get("quant_method") != "awq" or (
            settings.get("bits", settings.get("w_bit")) != BITS or settings.get("version", "gemm") != "gemm"):
        raise ToolkitError(f"{folder} is not quantised in a form that is read here: quantization_config is "
                           f"{settings}, 4-bit awq of version gemm was expected")
    return BITS


def dequantize(folder: Path, output: Path) -> dict[str, Any]:
    """Writes the weights of a quantised folder as float16 under MindFormers' names.

    Memory: one weight.

    Args:
        folder: AWQ GEMM or ModelSlim W8A16, of Llama's, InternLM's or InternLM2's names.
        output: A .safetensors or .ckpt file to make.

    Returns:
        `bits`, `bytes` of the folder's weights, and `model_config`.

    Raises:
        ToolkitError: Not such a folder, or tensors are missing or of another shape.
    """
    bits = bits_of(folder)
    config = read_json(folder / "config.json", "the model's config")
    model_config = hf_config.to_model_config(config)
    tensors = _Tensors(HfFolder(folder), hf_config.spelling_of(config), model_config, folder)
    layout = {name: Entry(shape, FP16) for name, shape in weight_names.parameter_shapes(model_config).items()}
    write_tensors(output, layout, tensors.blocks)
    tensors.folder.close()
    write_manifest(output, tool="dequantised for loading", model_config=model_config)
    return {"bits": bits, "bytes": sum(path.stat().st_size for path in tensors.folder.shards),
            "model_config": model_config}


class _Tensors:
    """The parameters of a quantised folder."""

    def __init__(self, folder: HfFolder, spelling: str, model_config: dict[str, Any], where: Path) -> None:
        self.folder = folder
        self._sources = {name: weight_names.source_of(name, spelling, model_config)
                         for name in weight_names.parameter_shapes(model_config)}
        self._whole: tuple[str, np.ndarray | None] = ("", None)  # the last one; a fused one is cut
        wanted: dict[str, tuple[int, ...]] = {}
        for name, shape in weight_names.parameter_shapes(model_config).items():
            source = self._sources[name]
            for tensor in self._parts(source.name):
                is_whole = tensor == source.name and not source.rows
                stated = folder.entries[tensor].shape if tensor in folder.entries else ()
                wanted[tensor] = shape if is_whole else stated
        found = {name: entry.shape for name, entry in folder.entries.items()
                 if not weight_names.is_buffer(name)}
        weight_names.require_parameters(found, wanted, str(where), "config.json and weights belong together")

    def _parts(self, tensor: str) -> tuple[str, ...]:
        """The tensors that a weight of this name is made of."""
        cell = tensor.removesuffix("weight")
        if f"{cell}{PARTS[0]}" in self.folder.entries:
            return tuple(cell + part for part in PARTS)
        if f"{cell}{_INT8_PARTS[1]}" in self.folder.entries:
            return tuple(cell + part for part in _INT8_PARTS)
        return (tensor,)

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """The values of a parameter, float16."""
        source = self._sources[name]
        parts = self._parts(source.name)
        if len(parts) == 1:
            for start, stop in row_blocks(self.folder.entries[source.name], source.rows):
                yield cast(self.folder.rows(source.name, start, stop), FP16)
            return
        if self._whole[0] != source.name:
            self._whole = (source.name, self._values(parts))
        weight = self._whole[1]
        yield from (weight[start:stop] for start, stop in source.rows or ((0, len(weight)),))

    def _values(self, parts: tuple[str, ...]) -> np.ndarray:
        arrays = [self.folder.rows(part, 0, self.folder.entries[part].shape[0]) for part in parts]
        if parts[0].endswith(PARTS[0]):
            rows = arrays[0].shape[1] * PER_WORD
            if arrays[2].shape[1] != rows or arrays[1].shape != (len(arrays[2]), rows // PER_WORD) or (
                    len(arrays[0]) % len(arrays[2])):
                raise ToolkitError(f"{parts[0]}, qzeros and scales do not belong together: their shapes are "
                                   f"{', '.join(str(array.shape) for array in arrays)}")
            return from_gemm(dict(zip(PARTS, arrays, strict=True))).values()
        numbers, scale, offset = (array.astype(np.float32) for array in arrays)
        return ((numbers + offset) * scale).astype(np.float16)


