"""MindSpore checkpoints -> what transformers and PEFT load (weights.py to-hf and to-peft)."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm import recipes
from research_internlm.checkpoints import dtypes, hf_config, weight_names
from research_internlm.checkpoints.adapters import open_adapter, peft_config
from research_internlm.checkpoints.dtypes import Entry
from research_internlm.checkpoints.hf_tokenizer import TOKENIZER_FILES, tokenizer_texts
from research_internlm.checkpoints.model_match import require_recorded_config
from research_internlm.checkpoints.tensor_files import TensorFile, row_blocks, write_tensors
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path, sha256_of, write_manifest
from research_internlm.shared.result_set import ResultSet, result_set

_WEIGHTS = "model.safetensors"
_ADAPTER = "adapter_model.safetensors"
# All an export can leave in its folder.
_MODEL_FILES = frozenset({_WEIGHTS, manifest_path(_WEIGHTS).name, "config.json", "generation_config.json",
                          *TOKENIZER_FILES})
_ADAPTER_FILES = frozenset({_ADAPTER, manifest_path(_ADAPTER).name, "adapter_config.json"})


def export_settings(config: str, overlays: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """The `model.model_config` an export is made with.

    Raises:
        ToolkitError: An override names a key that an export does not read, or values describe another
            structure.
    """
    stated = recipes.model_config(recipes.resolve(config, overlays))
    model_config = recipes.model_config(recipes.resolve(config, overlays, overrides))
    unknown = [key for key in model_config if key not in stated and key not in hf_config.EXPORT_KEYS]
    if unknown:
        raise ToolkitError(f"model.model_config has no {', '.join(unknown)}; an export reads "
                           f"{', '.join(sorted(hf_config.EXPORT_KEYS))}")
    hf_config.check_model_config(model_config, config)
    return model_config


def export_model(checkpoint: Path, output: Path, model_config: Mapping[str, Any], model_file: Path | None,
                 overwrite: bool) -> dict[str, Any]:
    """Writes a folder that transformers loads as a Llama, without remote code.

    Args:
        checkpoint: Base or merged weights, .ckpt or .safetensors.
        output: Folder to make.
        model_config: The recipe's `model.model_config`.
        model_file: tokenizer.model to put beside the weights; None leaves the tokenizer out.
        overwrite: Replace an existing export.

    Returns:
        The facts written into the manifest.

    Raises:
        ToolkitError: The checkpoint holds an unmerged adapter or does not fit the config.
    """
    output = _linked(output)
    inputs = [checkpoint, *([model_file] if model_file else [])]
    with (_export(output, _WEIGHTS, overwrite, inputs, _MODEL_FILES) as results,
          TensorFile(checkpoint) as file):
        weights, state = _weights_of(file, model_config)
        require_recorded_config(checkpoint, model_config)
        dtype = next((flag for flag, dtype in dtypes.FLAG_TYPES.items()
                      if dtype == weights["lm_head.weight"].dtype), "fp32")
        texts = {"config.json": json.dumps(hf_config.from_model_config(model_config, dtype), indent=2),
                 "generation_config.json": json.dumps(hf_config.generation_config(model_config), indent=2)}
        copies = {}
        if model_file:
            texts |= tokenizer_texts(model_file, model_config)
            copies["tokenizer.model"] = model_file
        folder = _write_folder(results, output.name, _WEIGHTS, file,
                               {weight_names.to_hf(name): name for name in weights}, texts, copies)
        facts = {"tool": "weights.py to-hf", "inputs": {checkpoint.name: sha256_of(checkpoint)},
                 "counts": {"in": len(file.entries), "out": len(weights),
                            "dropped": {"training state": len(state)}},
                 "dropped": state}
        write_manifest(folder / _WEIGHTS, **facts)
        results.publish(folder.name)
    return facts


def _weights_of(file: TensorFile, model_config: Mapping[str, Any]) -> tuple[dict[str, Entry], list[str]]:
    """The model's weights in a checkpoint, and the names of its training state.

    Raises:
        ToolkitError: It holds an unmerged adapter or does not fit the config.
    """
    adapter = [name for name in file.entries if weight_names.is_adapter(name)]
    if adapter:
        raise ToolkitError(f"{file.path} holds {len(adapter)} LoRA matrices; fold them in first with "
                           "weights.py merge")
    state = [name for name in file.entries if weight_names.is_training_state(name)]
    weights = {name: entry for name, entry in file.entries.items() if name not in state}
    weight_names.require_parameters({name: entry.shape for name, entry in weights.items()},
                                    weight_names.parameter_shapes(model_config), str(file.path),
                                    "give the config these weights were trained with")
    return weights, state


def _linked(output: Path) -> Path:
    """The folder itself where the output is a link to one: it is replaced where it lies, not the link."""
    return output.resolve() if output.is_symlink() and output.exists() else output


@contextlib.contextmanager
def _export(output: Path, weights_name: str, overwrite: bool, inputs: Iterable[Path], ours: frozenset[str]
            ) -> Iterator[ResultSet]:
    """Locks an output folder; one that exists may hold an earlier export and nothing else.

    Raises:
        ToolkitError: It may not be written, or holds other files, which would go with the export.
    """
    manifest = manifest_path(output / weights_name)
    with result_set(output, overwrite, {output: manifest}, inputs, is_folder=True) as results:
        found = output.iterdir() if output.exists() else ()
        others = sorted(path.name for path in found if path.name not in ours)
        if others:
            raise ToolkitError(f"{output} holds {len(others)} files that no earlier export wrote "
                               f"({', '.join(others)}); --overwrite replaces exports only, name another "
                               "folder")
        yield results


def export_adapter(adapter_path: Path, output: Path, overwrite: bool, base_model: str | None = None
                   ) -> dict[str, Any]:
    """Writes adapter_model.safetensors and adapter_config.json for PEFT, to lay over `to-hf`'s base.

    Args:
        adapter_path: The adapter, in its run's folder.
        output: Folder to make.
        overwrite: Replace an existing export.
        base_model: Name or folder of the base for PEFT, which may then load it by itself.

    Returns:
        The facts written into the manifest.

    Raises:
        ToolkitError: Adapter and run do not belong together.
    """
    output = _linked(output)
    with _export(output, _ADAPTER, overwrite, [adapter_path], _ADAPTER_FILES) as results:
        adapter = open_adapter(adapter_path)
        with adapter.file as file:
            matrices = [name for name in file.entries if weight_names.is_adapter(name)]
            folder = _write_folder(results, output.name, _ADAPTER, file,
                                   {weight_names.to_peft(name): name for name in matrices},
                                   {"adapter_config.json": peft_config(adapter, base_model)}, {})
            others = len(file.entries) - len(matrices)
        facts = {"tool": "weights.py to-peft", "inputs": {adapter_path.name: sha256_of(adapter_path)},
                 "counts": {"in": others + len(matrices), "out": len(matrices),
                            "dropped": {"base weights and training state": others}}}
        write_manifest(folder / _ADAPTER, **facts)
        results.publish(folder.name)
    return facts


def _write_folder(results: ResultSet, name: str, weights_name: str, file: TensorFile,
                  sources: Mapping[str, str], texts: Mapping[str, str], copies: Mapping[str, Path]) -> Path:
    """Writes the files of an export of that name; returns their folder, not yet under its final name."""
    folder = results.folder / name
    folder.mkdir()
    layout = {name: Entry(file.entries[source].shape, file.entries[source].dtype)
              for name, source in sources.items()}

    check = dtypes.FiniteCheck("export another checkpoint")

    def blocks_of(name: str) -> Iterator[np.ndarray]:
        for start, stop in row_blocks(layout[name]):
            yield check.see(file.rows(sources[name], start, stop), sources[name])

    write_tensors(folder / weights_name, layout, blocks_of, framework="pt")
    check.finish()
    for text_name, text in texts.items():
        (folder / text_name).write_text(text + "\n", encoding="utf-8")
    for copy_name, source in copies.items():
        shutil.copyfile(source, folder / copy_name)
    return folder
