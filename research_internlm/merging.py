"""Folds an adapter into its base weights, file to file (weights.py merge)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm import dtypes, lora, weight_names
from research_internlm.adapters import Adapter, open_adapter
from research_internlm.dtypes import Entry
from research_internlm.errors import ToolkitError
from research_internlm.files import publish, read_manifest, require_absent, sha256_of, staging, write_manifest
from research_internlm.tensor_files import TensorFile, format_of, row_blocks, write_tensors

_TOOL = "weights.py merge"


def merge(base_path: Path, adapter_path: Path, output: Path, overwrite: bool) -> dict[str, Any]:
    """Writes W + alpha / rank * B A for every adapted weight, and all other weights as they are.

    Computed in float32, stored in the base's types. Memory: a few blocks of rows and one adapter pair.

    Args:
        base_path: The weights the run started from, or a full checkpoint given as base and adapter both.
        adapter_path: The adapter, in its run's folder.
        output: A .ckpt or .safetensors file.
        overwrite: Replace an existing output.

    Returns:
        The facts written into the manifest.

    Raises:
        ToolkitError: Base, adapter and run do not belong together, nothing changes, or the result is not
            finite.
    """
    format_of(output)
    if output.resolve() in (base_path.resolve(), adapter_path.resolve()):
        raise ToolkitError(f"--output {output} is also an input; name another file")
    require_absent(output, overwrite)
    adapter = open_adapter(adapter_path)
    with adapter.file, TensorFile(base_path, "the base") as base:
        layout, dropped = _layout(base, adapter)
        inputs = {"base": sha256_of(base_path), "adapter": sha256_of(adapter_path)}
        _check_base(base, adapter, layout, inputs["base"])
        merger = _Merger(base, adapter, layout)
        with staging(output.parent) as stage:
            write_tensors(stage / output.name, layout, merger.blocks_of)
            if not merger.changed:
                raise ToolkitError(f"{adapter_path} changes no weight (its B matrices are all zero, or too "
                                   "small for the base's type): the run trained nothing; check its log")
            publish(stage / output.name, output)
    facts = {
        "tool": _TOOL, "inputs": inputs, "scaling": lora.scaling(adapter.pet_config),
        "counts": {"in": len(base.entries), "out": len(layout), "changed": len(merger.changed),
                   "dropped": {kind: len(names) for kind, names in dropped.items()}},
        "dropped": dropped,
    }
    write_manifest(output, **facts)
    return facts


def _layout(base: TensorFile, adapter: Adapter) -> tuple[dict[str, Entry], dict[str, list[str]]]:
    """Weights of the result, and what else the base file holds, by kind."""
    dropped = {"training state": [name for name in base.entries if weight_names.is_training_state(name)],
               "adapter": [name for name in base.entries if weight_names.is_adapter(name)]}
    if dropped["adapter"] and not base.path.samefile(adapter.file.path):
        raise ToolkitError(f"the base {base.path} holds an adapter of its own ({len(dropped['adapter'])} "
                           "LoRA matrices); give the plain base, or that file as --adapter too")
    others = {name for names in dropped.values() for name in names}
    layout = {name: entry for name, entry in base.entries.items() if name not in others}
    weight_names.require_parameters({name: entry.shape for name, entry in layout.items()},
                                    weight_names.parameter_shapes(adapter.model_config),
                                    f"the base {base.path}", f"the adapter's run ({adapter.config_file}) was "
                                    "on another base, or the file is incomplete")
    return layout, dropped


def _check_base(base: TensorFile, adapter: Adapter, layout: dict[str, Entry], base_sha256: str) -> None:
    """Refuses a base that is not the one the adapter was trained on, as far as the files can tell.

    A full checkpoint holds its base, which is compared; else run.json has the base's sha256; else at least
    weights that are merged already are known by their manifest.
    """
    if adapter.holds_base:
        differing = [] if base.path.samefile(adapter.file.path) else _differing(base, adapter, layout)
        if differing:
            raise ToolkitError(
                f"{len(differing)} weights of {base.path} are not those the adapter was trained on (e.g. "
                f"{differing[0]}): another base, or merged already; give {adapter.file.path} as --base too")
    elif adapter.base_sha256 and adapter.base_sha256 != base_sha256:
        raise ToolkitError(
            f"the adapter's run started from a checkpoint with sha256 {adapter.base_sha256} (run.json), but "
            f"{base.path} has {base_sha256}: another base, or merged already; give the run's "
            "--load_checkpoint")
    elif not adapter.base_sha256 and (read_manifest(base.path) or {}).get("tool") == _TOOL:
        raise ToolkitError(f"{base.path} was made by {_TOOL}: merging into it again would apply an adapter "
                           "twice; give the base the run started from")


def _differing(base: TensorFile, adapter: Adapter, layout: dict[str, Entry]) -> list[str]:
    """Weights whose values in the base and in the adapter's file differ."""
    differing = []
    for name in layout:
        theirs = adapter.file.entries.get(name)
        if theirs is None or any(
                not np.array_equal(dtypes.cast(base.rows(name, *rows), theirs.dtype),
                                   adapter.file.rows(name, *rows)) for rows in row_blocks(theirs)):
            differing.append(name)
    return differing


class _Merger:
    """Gives the result's rows and notes which weights the adapter changed."""

    def __init__(self, base: TensorFile, adapter: Adapter, layout: dict[str, Entry]) -> None:
        self.base, self.adapter, self.layout = base, adapter, layout
        self.adapted = set(adapter.weights)
        self.changed: set[str] = set()

    def blocks_of(self, name: str) -> Iterator[np.ndarray]:
        """The consecutive row blocks of a weight of the result."""
        if name in self.adapted:
            lora_a, lora_b = (dtypes.to_float32(self.adapter.file.read(matrix))
                              for matrix in lora.adapter_names(name))
        for start, stop in row_blocks(self.layout[name]):
            rows = self.base.rows(name, start, stop)
            if name in self.adapted:
                merged = self._merge(name, rows, lora_a, lora_b[start:stop])
                if not np.array_equal(merged, rows):
                    self.changed.add(name)
                rows = merged
            yield dtypes.require_finite(rows, name)

    def _merge(self, name: str, rows: np.ndarray, lora_a: np.ndarray, lora_b: np.ndarray) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):  # the result is checked
                merged = lora.merge_weight(dtypes.to_float32(rows), lora_a, lora_b,
                                           lora.scaling(self.adapter.pet_config))
        except ToolkitError as error:
            raise ToolkitError(f"{name}: {error}") from None
        return dtypes.cast(merged, rows.dtype)
