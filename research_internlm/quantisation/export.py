"""Writes the folder of quantised weights from the stages of its layers, a tensor at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm.checkpoints import dtypes, hf_config, weight_names
from research_internlm.checkpoints.dtypes import Entry
from research_internlm.checkpoints.hf_export import tokenizer_texts
from research_internlm.checkpoints.model_match import computed_by
from research_internlm.checkpoints.tensor_files import row_blocks, write_tensors
from research_internlm.checkpoints.tokenizer_json import OnlyOursError
from research_internlm.quantisation.awq_format import BITS, GROUP_ARRAYS, Groups
from research_internlm.quantisation.formats import FP16, MODELSLIM_DESCRIPTION, NEVER_RUN, Layout
from research_internlm.quantisation.output import CHECKPOINT, WEIGHTS
from research_internlm.quantisation.source import Source, Weights, linear_cells
from research_internlm.quantisation.stages import Stages
from research_internlm.shared.files import write_manifest


class Tensors:
    """The tensors of a layout.

    Args:
        layout: The form.
        source: The model.
        weights: Its weights.
        stages: Those of every layer, for 4 bits.
        group_size: As for awq_format.quantize.

    Attributes:
        entries: Name in the file -> shape and type, in the order of the forward pass.
    """

    def __init__(self, layout: Layout, source: Source, weights: Weights, stages: Stages, group_size: int
                 ) -> None:
        self._layout, self._weights, self._stages = layout, weights, stages
        self._cells = {cell for cell, _ in linear_cells(source.model_config)}
        self.entries: dict[str, Entry] = {}
        self._places: dict[str, tuple[str, str]] = {}  # name in the file -> parameter, part of it
        self._check = dtypes.FiniteCheck("float16 is what these formats take; quantise another checkpoint")
        for name, shape in weight_names.parameter_shapes(source.model_config).items():
            parts = {layout.plain(name, self._is_linear(name)): ("", Entry(shape, FP16))}
            if self._is_linear(name) and name.endswith(".weight"):
                parts = {layout.cell(name) + part: (part, entry) for part, entry in
                         layout.entries(*shape, group_size).items()}
            for tensor, (part, entry) in parts.items():
                self.entries[tensor], self._places[tensor] = entry, (name, part)
        self._opened: tuple[int, Any] = (-1, None)
        self._made: tuple[str, dict[str, np.ndarray]] = ("", {})

    def write(self, path: Path) -> None:
        """Writes them all.

        Raises:
            ToolkitError: Values are not finite in float16; every tensor is named.
        """
        write_tensors(path, self.entries, self._blocks, framework="pt")
        self._check.finish()

    @property
    def bits_of(self) -> dict[str, bool]:
        """Name in the file -> whether it belongs to a quantised weight."""
        return {tensor: bool(part) for tensor, (_, part) in self._places.items()}

    def _is_linear(self, name: str) -> bool:
        return ".".join(name.split(".")[3:-1]) in self._cells

    def _blocks(self, tensor: str) -> Iterator[np.ndarray]:
        name, part = self._places[tensor]
        if part:
            if self._made[0] != name:
                self._made = (name, self._layout.values(self._quantized(name)))
            yield self._check.see(self._made[1][part], tensor)
        elif self._layout.bits == BITS and name.startswith("model.layers."):
            yield self._check.see(self._stage(name)[_within(name)].astype(np.float16), tensor)
        else:
            for start, stop in row_blocks(self._weights.file.entries[name]):
                rows = dtypes.cast(self._weights.file.rows(name, start, stop), FP16)
                yield self._check.see(rows, tensor)

    def _quantized(self, name: str) -> Groups | np.ndarray:
        if self._layout.bits != BITS:
            return self._weights.read(name)
        cell = _within(name).removesuffix(".weight")
        return Groups(*(self._stage(name)[f"{cell}.{part}"] for part in GROUP_ARRAYS))

    def _stage(self, name: str) -> Any:
        layer = int(name.split(".")[2])
        if self._opened[0] != layer:
            self._opened = (layer, np.load(self._stages.layer(layer, ".npz")))
        return self._opened[1]


def _within(name: str) -> str:
    return name.split(".", 3)[3]


def write_output(layout: Layout, source: Source, weights: Weights, stages: Stages, folder: Path,
                 facts: dict[str, Any], group_size: int) -> dict[str, Any]:
    """Writes the folder.

    Args:
        layout: The form.
        source: The model.
        weights: Its weights.
        stages: Those of every layer, for 4 bits.
        folder: The folder, to be made.
        facts: For the manifest.
        group_size: As for awq_format.quantize.

    Returns:
        The facts with counts and sizes.
    """
    folder.mkdir()
    tensors = Tensors(layout, source, weights, stages, group_size)
    path = folder / (WEIGHTS if layout.is_llama else CHECKPOINT)
    tensors.write(path)
    for text_name, text in _texts(layout, source, group_size, tensors).items():
        (folder / text_name).write_text(text + "\n", encoding="utf-8")
    if layout.is_llama and source.model_file:
        (folder / "tokenizer.model").write_bytes(source.model_file.read_bytes())
    state = weights.training_state()
    layers = range(source.model_config["num_layers"]) if layout.bits == BITS else ()
    facts = {**facts, "model_config": computed_by(source.model_config),
             "counts": {"in": len(weights.file.entries), "out": len(tensors.entries),
                        "dropped": {"training state": len(state)}},
             "bytes_before": sum(math.prod(entry.shape) * entry.dtype.itemsize for tensor, entry in
                                 weights.file.entries.items() if tensor not in state),
             "layers": [json.loads(stages.layer(layer, ".json").read_text("utf-8")) for layer in layers]}
    if not layout.is_llama:
        facts["note"] = NEVER_RUN
    write_manifest(path, **facts)
    return facts


def _texts(layout: Layout, source: Source, group_size: int, tensors: Tensors) -> dict[str, str]:
    if not layout.is_llama:
        return {"README.md": _README.format(note=NEVER_RUN, group_size=group_size)}
    config = hf_config.from_model_config(source.model_config, "fp16")
    if layout.settings:
        config["quantization_config"] = layout.settings(group_size)
    texts = {"config.json": config,
             "generation_config.json": hf_config.generation_config(source.model_config)}
    if layout.bits != BITS:
        texts[MODELSLIM_DESCRIPTION] = {"model_quant_type": "W8A16", **{
            tensor: "W8A16" if quantised else "FLOAT" for tensor, quantised in tensors.bits_of.items()}}
    texts = {name: json.dumps(value, indent=2) for name, value in texts.items()}
    try:
        return texts | (tokenizer_texts(source.model_file, source.model_config) if source.model_file else {})
    except OnlyOursError as error:  # hours of calibration are not thrown away for it
        print(f"warning: tokenizer.model is there for this toolkit alone: {error}", flush=True)
        return texts


_README = """# Llama weights in 4 bits for MindFormers on Ascend

**Never run.** model.ckpt is {note}.

- Linear layers of the decoder: `NAME._layer.weight` (qint4x2, (in, out / 2)),
  `NAME._layer.matmul.weight_scale` and `NAME._layer.matmul.weight_zp` (float16, (in / {group_size}, out)); a
  value is (weight + zp) * scale.
- Everything else is float16 under MindFormers' own names.
- The network it is meant for: MindFormers' LlamaForCausalLM, quantised by mindspore-gs with
  PTQConfig(mode=DEPLOY, weight_quant_dtype=qint4x2, act_quant_dtype=None, weight_quant_granularity=PER_GROUP,
  group_size={group_size}, opname_blacklist=["lm_head"])."""
