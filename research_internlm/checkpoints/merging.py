"""Folds an adapter into its base weights, file to file (weights.py merge)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm.checkpoints import dtypes, weight_names
from research_internlm.checkpoints.adapters import Adapter, open_adapter
from research_internlm.checkpoints.dtypes import Entry
from research_internlm.checkpoints.model_match import computed_by, require_recorded_config
from research_internlm.checkpoints.tensor_files import TensorFile, format_of, row_blocks, write_tensors
from research_internlm.model import lora
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_manifest, sha256_of, write_manifest
from research_internlm.shared.result_set import result_set

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
    with result_set(output, overwrite, inputs=(base_path, adapter_path)) as results:
        adapter = open_adapter(adapter_path)
        with adapter.file, TensorFile(base_path, "the base") as base:
            facts = _merge(base, adapter, results.folder / output.name)
        results.publish(output.name)
    return facts


def _merge(base: TensorFile, adapter: Adapter, output: Path) -> dict[str, Any]:
    """Writes the merged weights and their manifest; returns what it says."""
    layout, dropped = _layout(base, adapter)
    require_recorded_config(base.path, adapter.model_config)
    inputs = {"base": sha256_of(base.path), "adapter": sha256_of(adapter.file.path)}
    _check_base(base, adapter, layout, inputs["base"])
    merger = _Merger(base, adapter, layout)
    write_tensors(output, layout, merger.blocks_of)
    merger.check.finish()
    if not merger.changed:
        raise ToolkitError(f"{adapter.file.path} changes no weight (its B matrices are all zero, or too "
                           "small for the base's type): the run trained nothing; check its log")
    facts = {
        "tool": _TOOL, "inputs": inputs, "scaling": lora.scaling(adapter.pet_config),
        "model_config": computed_by(adapter.model_config),
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
    """Refuses a base unless it is shown to be the one the adapter was trained on, inside a run's folder.

    Shown by the adapter's own file where that holds the base too, by the sha256 in run.json, or by the
    values in one of the run's full checkpoints: the same weights in another file format are the same base. A
    base that an adapter was merged into already is another one by each of these. Taken out of its run, an
    adapter says nothing of its base; then only what `merge` itself wrote is refused.

    Raises:
        ToolkitError: It is another base, or nothing tells.
    """
    if adapter.holds_base:
        if not base.path.samefile(adapter.file.path):
            _require_same(base, adapter.file, layout)
        return
    if adapter.base_sha256 == base_sha256:
        return
    full_path = next(iter(adapter.full_checkpoints()), None)
    if full_path:
        with TensorFile(full_path, "the run's checkpoint") as full:
            _require_same(base, full, layout)
        return
    run = adapter.config_file.parent
    if not adapter.run_facts and (read_manifest(base.path) or {}).get("tool") != _TOOL:
        print(f"warning: nothing tells whether {base.path} is the base of {adapter.file.path}, which lies "
              "outside its run's folder (no run.json beside it): not checked")
        return
    if adapter.base_sha256:
        raise ToolkitError(
            f"the run {run} started from a file with sha256 {adapter.base_sha256} (run.json), but "
            f"{base.path} has {base_sha256}: another base, one merged already, or the same weights in "
            f"another form, which only a full checkpoint in {run}/checkpoint could tell; give exactly the "
            "run's --load_checkpoint")
    raise ToolkitError(
        f"nothing tells whether {base.path} is the base of {adapter.file.path}: {run} has neither a run.json "
        "with the sha256 of a --load_checkpoint (a run from random weights has none) nor a full checkpoint "
        "in checkpoint/; give the run's full checkpoint (checkpoint/rank_0/*.ckpt) as --base and --adapter "
        "both, or put the run's run.json back")


def _require_same(base: TensorFile, full: TensorFile, layout: dict[str, Entry]) -> None:
    """Refuses a base whose values are not those of a full checkpoint of the run."""
    differing = _differing(base, full, layout)
    if differing:
        raise ToolkitError(
            f"{len(differing)} weights of {base.path} are not those the adapter was trained on, as "
            f"{full.path} has them (e.g. {differing[0]}): another base, or merged already; give the run's "
            f"--load_checkpoint, or {full.path} as --base and --adapter both")


def _differing(base: TensorFile, full: TensorFile, layout: dict[str, Entry]) -> list[str]:
    """Weights whose values in the base and in a full checkpoint differ, in the checkpoint's type."""
    differing = []
    for name in layout:
        theirs = full.entries.get(name)
        if theirs is None or any(
                not np.array_equal(dtypes.cast(base.rows(name, *rows), theirs.dtype),
                                   full.rows(name, *rows)) for rows in row_blocks(theirs)):
            differing.append(name)
    return differing


class _Merger:
    """Gives the result's rows and notes which weights the adapter changed."""

    def __init__(self, base: TensorFile, adapter: Adapter, layout: dict[str, Entry]) -> None:
        self.base, self.adapter, self.layout = base, adapter, layout
        self.adapted = set(adapter.weights)
        self.changed: set[str] = set()
        self.check = dtypes.FiniteCheck("the run overflowed, merge an earlier checkpoint of it, or the sums "
                                        "are too large for the base's type: convert the base again with "
                                        "from-hf --dtype bf16 or fp32")

    def blocks_of(self, name: str) -> Iterator[np.ndarray]:
        """The consecutive row blocks of a weight of the result."""
        if name in self.adapted:
            lora_a, lora_b = (dtypes.to_float32(self.adapter.file.read(matrix))
                              for matrix in lora.adapter_names(name))
        for start, stop in row_blocks(self.layout[name]):
            rows = self.base.rows(name, start, stop)
            if name in self.adapted:
                merged = self._merge(rows, lora_a, lora_b[start:stop])
                if not np.array_equal(merged, rows):
                    self.changed.add(name)
                rows = merged
            yield self.check.see(rows, name)

    def _merge(self, rows: np.ndarray, lora_a: np.ndarray, lora_b: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # the result is checked
            merged = lora.add_product(dtypes.to_float32(rows), lora_a, lora_b,
                                      lora.scaling(self.adapter.pet_config))
        return dtypes.cast(merged, rows.dtype)
