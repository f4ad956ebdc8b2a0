"""Hugging Face weights -> one MindSpore checkpoint (weights.py from-hf)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from research_internlm.checkpoints import dtypes, hf_config, weight_names
from research_internlm.checkpoints.adapters import require_no_peft
from research_internlm.checkpoints.dtypes import Entry
from research_internlm.checkpoints.hf_folder import HfFolder
from research_internlm.checkpoints.tensor_files import SUFFIXES, format_of, row_blocks, write_tensors
from research_internlm.checkpoints.weight_names import Source
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, require_absent, sha256_of, write_manifest
from research_internlm.shared.result_set import result_set


def import_model(hf_dir: Path, output: Path, dtype: str | None, overwrite: bool,
                 file_format: str | None = None) -> dict[str, Any]:
    """Converts a model folder of InternLM, InternLM2, or a Llama of their structure.

    Memory: one block of rows of one tensor (safetensors), or one mapped shard (.bin).

    Args:
        hf_dir: Folder with config.json and the weights.
        output: File to make.
        dtype: `fp16`, `bf16` or `fp32`; None keeps each tensor's type.
        overwrite: Replace an existing output.
        file_format: `ckpt` or `safetensors`; None goes by the output's suffix.

    Returns:
        The facts written into the manifest; `notes` are for the user to read.

    Raises:
        ToolkitError: Config, tensors or output do not allow it.
    """
    format_of(output, file_format)
    with result_set(output, overwrite) as results:
        facts = _convert(hf_dir, output, results.folder / output.name, dtype, file_format)
        results.publish(output.name)
    return facts


def _convert(hf_dir: Path, output: Path, staged: Path, dtype: str | None, file_format: str | None
             ) -> dict[str, Any]:
    """Writes the checkpoint and its manifest as `staged`; returns what the manifest says."""
    require_no_peft(hf_dir)
    config = read_json(hf_dir / "config.json", "the model's config", "give the folder of the HF release")
    model_config = hf_config.to_model_config(config)
    folder = HfFolder(hf_dir)
    _require_unquantised(folder, config, hf_dir)
    inputs = [hf_dir / "config.json", *folder.shards]
    require_absent(output, overwrite=True, inputs=inputs)
    shapes = weight_names.parameter_shapes(model_config)
    sources = _sources(model_config, hf_config.spelling_of(config), folder, config)
    buffers = _check_tensors(folder, sources, shapes, hf_dir, dtype)
    digests = _write(folder, sources, _layout(folder, sources, shapes, dtype), staged, file_format, inputs)
    facts = {
        "tool": "weights.py from-hf", "inputs": digests, "model_config": model_config,
        "counts": {"in": len(folder.entries), "out": len(sources), "dropped": {"buffers": len(buffers)}},
        "dropped": buffers, "notes": hf_config.left_out(config),
    }
    write_manifest(staged, **facts)
    return facts


def _require_unquantised(folder: HfFolder, config: Mapping[str, Any], where: Path) -> None:
    """Says that weights are quantised before their names are compared, which are others then.

    Raises:
        ToolkitError: config.json or the tensors' names say so.
    """
    settings = config.get("quantization_config")
    packed = [name for name in folder.entries if weight_names.is_quantised(name)]
    if settings or packed:
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        found = [f"quantization_config in config.json: {method or settings}"] if settings else []
        found += [f"{len(packed)} tensors such as {packed[0]}"] if packed else []
        raise ToolkitError(f"the weights of {where} are quantised ({'; '.join(found)}) and cannot be "
                           "converted: download the release that is not quantised")


def describe_import(facts: Mapping[str, Any], output: Path, file_format: str | None) -> Iterator[str]:
    """What an import found, for the user to read: the recipe's settings, and notes.

    Args:
        facts: From `import_model`.
        output: The file that was made.
        file_format: `--format`, or None.
    """
    yield "model_config: " + yaml.safe_dump(facts["model_config"], default_flow_style=True, sort_keys=False,
                                            width=math.inf).strip()
    yield from (f"note: {note}" for note in facts["notes"])
    if output.suffix not in SUFFIXES.values():
        yield f"note: MindSpore loads {output} only under a name that ends in {SUFFIXES[file_format]}"


def _write(folder: HfFolder, sources: Mapping[str, Source], layout: Mapping[str, Entry], staged: Path,
           file_format: str | None, inputs: Sequence[Path]) -> dict[str, str]:
    """Writes the checkpoint; returns the inputs' sha256 by file name."""
    check = dtypes.FiniteCheck("use another --dtype, or download the model again")

    def blocks_of(name: str) -> Iterator[np.ndarray]:
        source = sources[name]
        for start, stop in row_blocks(folder.entries[source.name], source.rows):
            rows = dtypes.cast(folder.rows(source.name, start, stop), layout[name].dtype)
            yield check.see(rows, source.name)

    with contextlib.ExitStack() as stack:
        # Hashing runs beside the conversion: it leaves Python's lock, as reading and writing do.
        pool = ThreadPoolExecutor(1)
        stack.callback(pool.shutdown, cancel_futures=True)  # no hashing on after an error
        digests = pool.map(sha256_of, inputs)
        write_tensors(staged, layout, blocks_of, file_format=file_format)
        folder.close()
        check.finish()
        return dict(zip((path.name for path in inputs), digests, strict=True))


def _sources(model_config: Mapping[str, Any], spelling: str, folder: HfFolder, config: Mapping[str, Any]
             ) -> dict[str, Source]:
    sources = {name: weight_names.source_of(name, spelling, model_config)
               for name in weight_names.parameter_shapes(model_config)}
    if config.get("tie_word_embeddings") and sources["lm_head.weight"].name not in folder.entries:
        # The head is the embedding; here it gets a copy of its own.
        sources["lm_head.weight"] = sources["model.tok_embeddings.embedding_weight"]
    return sources


def _check_tensors(folder: HfFolder, sources: Mapping[str, Source], shapes: Mapping[str, tuple[int, ...]],
                   where: Path, dtype: str | None) -> list[str]:
    """Checks all tensors against the model; returns the names of buffers, which are left out."""
    wanted: dict[str, tuple[int, ...]] = {}
    for name, source in sources.items():
        rows, *rest = shapes[name]
        fused = wanted[source.name][0] if source.rows and source.name in wanted else 0
        wanted[source.name] = (fused + rows, *rest)
    buffers = sorted(name for name in folder.entries if weight_names.is_buffer(name))
    found = {name: entry.shape for name, entry in folder.entries.items() if name not in buffers}
    weight_names.require_parameters(found, wanted, str(where), "check that config.json and the weights "
                                    "belong together and are complete")
    types = {name: folder.entries[name].dtype for name in found}
    odd = [name for name in found if types[name] not in (*dtypes.FLAG_TYPES.values(), dtypes.FP64)]
    if odd:
        raise ToolkitError(f"{where}: {len(odd)} tensors are not floating-point numbers ({', '.join(odd)}); "
                           "quantised weights cannot be converted")
    wide = [name for name in found if types[name] == dtypes.FP64]
    if wide and not dtype:
        raise ToolkitError(f"{where}: {len(wide)} tensors are float64 ({', '.join(wide)}), which MindFormers "
                           "does not train; choose a type with --dtype")
    return buffers


def _layout(folder: HfFolder, sources: Mapping[str, Source], shapes: Mapping[str, tuple[int, ...]],
            dtype: str | None) -> dict[str, Entry]:
    """Output tensors in the order in which the shards hold them."""
    order = {name: place for place, name in enumerate(folder.entries)}
    names = sorted(sources, key=lambda name: order[sources[name].name])
    return {name: Entry(shapes[name], dtypes.FLAG_TYPES[dtype] if dtype
                        else folder.entries[sources[name].name].dtype) for name in names}
