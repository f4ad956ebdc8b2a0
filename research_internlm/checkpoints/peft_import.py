"""An adapter of PEFT or XTuner -> one of this toolkit, for merge, chat and serve (weights.py from-peft)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm import recipes
from research_internlm.checkpoints import dtypes, hf_config, weight_names
from research_internlm.checkpoints.dtypes import Entry
from research_internlm.checkpoints.hf_folder import ADAPTER_FILES, HfFolder
from research_internlm.checkpoints.tensor_files import TensorFile, row_blocks, write_tensors
from research_internlm.checkpoints.weight_names import Source
from research_internlm.model import lora
from research_internlm.shared.arguments import is_number, is_whole
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path, read_json, read_manifest, sha256_of, write_manifest
from research_internlm.shared.result_set import result_set
from research_internlm.shared.run_layout import RESOLVED_CONFIG, RUN_FACTS

_CONFIG = "adapter_config.json"
_ADAPTER = "adapter.safetensors"
# Settings of peft.LoraConfig under which an adapter is more than alpha / r * B A on the plain base.
_MUST_BE_UNSET = ("use_dora", "fan_in_fan_out", "lora_bias", "rank_pattern", "alpha_pattern",
                  "layer_replication", "trainable_token_indices", "target_parameters")
_CHANGES_BASE = ("pissa", "olora", "loftq", "corda")  # of init_lora_weights: the base is not the release's


def import_adapter(peft_dir: Path, output: Path, base: Path, overwrite: bool) -> dict[str, Any]:
    """Writes a folder with the adapter, its settings, and the fact which base it belongs to.

    Args:
        peft_dir: Folder with adapter_config.json and adapter_model.safetensors or .bin.
        output: Folder to make; `merge` takes the adapter.safetensors in it.
        base: The converted base of the adapter, with the manifest that from-hf wrote.
        overwrite: Replace an existing result.

    Returns:
        The facts written into the manifest.

    Raises:
        ToolkitError: The adapter trained more than LoRA matrices, or does not fit the base; all findings of
            a kind at once.
    """
    with result_set(output, overwrite, {output: manifest_path(output / _ADAPTER)}, [base, peft_dir / _CONFIG],
                    is_folder=True) as results:
        model_config = _config_of(base)
        settings = _pet_config(peft_dir)
        found = HfFolder(peft_dir, ADAPTER_FILES)
        sources = _sources(found, model_config, settings["lora_rank"], peft_dir)
        cells = sorted({name.split(".")[-2] for name in sources})
        model_config |= {"pet_config": {"pet_type": "lora", **settings,
                                        "target_modules": "|".join(f".*{cell}" for cell in cells)}}
        _require_all(sources, model_config, peft_dir)
        folder = results.folder / output.name
        folder.mkdir()
        _write(found, sources, folder / _ADAPTER)
        recipes.write_resolved({"model": {"model_config": model_config}}, folder / RESOLVED_CONFIG)
        (folder / RUN_FACTS).write_text(json.dumps({"load_checkpoint_sha256": sha256_of(base)}) + "\n")
        facts = {"tool": "weights.py from-peft", "scaling": lora.scaling(model_config["pet_config"]),
                 "inputs": {path.name: sha256_of(path) for path in (peft_dir / _CONFIG, *found.shards)},
                 "counts": {"in": len(found.entries), "out": len(sources), "dropped": {}}}
        write_manifest(folder / _ADAPTER, **facts)
        results.publish(output.name)
    return facts


def _config_of(base: Path) -> dict[str, Any]:
    """The base's `model_config`, from its manifest."""
    with TensorFile(base, "the base"):
        pass
    stated = (read_manifest(base) or {}).get("model_config")
    if not isinstance(stated, Mapping):
        raise ToolkitError(f"nothing beside {base} says what model it is (a {manifest_path(base).name} with "
                           "its model_config): give the base as weights.py from-hf wrote it")
    # The length of rows is no property of an adapter, but recipes state one.
    config = {"seq_length": stated.get("max_position_embedding"), **stated}
    hf_config.check_model_config(config, str(manifest_path(base)))
    return config


def _pet_config(peft_dir: Path) -> dict[str, Any]:
    """Rank and alpha of an adapter_config.json, alpha such that alpha / rank is PEFT's scaling.

    Raises:
        ToolkitError: The file is no LoRA's, or the adapter is more than matrices on the plain base.
    """
    path = peft_dir / _CONFIG
    config = read_json(path, "the adapter's config", "give the folder that PEFT or XTuner saved")
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise ToolkitError(f"{path} is of the type {kind}; from-peft converts LORA adapters")
    wrong = [f"{key} {config[key]}" for key in _MUST_BE_UNSET if config.get(key)]
    if whole := config.get("modules_to_save"):
        names = ", ".join(map(str, whole)) if isinstance(whole, list) else whole
        wrong.append(f"modules_to_save {names} (trained as a whole)")
    if config.get("bias", "none") not in ("none", None):
        wrong.append(f"bias {config['bias']} (biases were trained)")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        wrong.append(f"init_lora_weights {start} (it changes the base weights)")
    if wrong:
        raise ToolkitError(f"{path} has {'; '.join(wrong)}, which an adapter of this toolkit cannot hold: "
                           "merge it with PEFT (merge_and_unload), then convert the merged model with "
                           "weights.py from-hf")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not is_whole(rank, 1) or not is_number(alpha, 0):
        raise ToolkitError(f"{path} has r {rank!r} and lora_alpha {alpha!r}; r must be a whole number of at "
                           "least 1, lora_alpha a number of at least 0")
    # rsLoRA divides by the root of the rank (Kalajdzievski 2023).
    return {"lora_rank": rank, "lora_alpha": alpha * math.sqrt(rank) if config.get("use_rslora") else alpha,
            "lora_dropout": 0.0}


def _sources(found: HfFolder, model_config: Mapping[str, Any], rank: int, where: Path) -> dict[str, Source]:
    """Our LoRA matrices -> where they lie: B of a fused wqkv is cut into rows as the weight is, A is shared.

    Raises:
        ToolkitError: Tensors that are no LoRA matrices of the model's layers, or of another shape or type.
    """
    linears = {name: shape for name, shape in weight_names.parameter_shapes(model_config).items()
               if ".layers." in name and len(shape) == 2}
    sources: dict[str, Source] = {}
    wanted: dict[str, tuple[int, ...]] = {}
    spellings = set()
    for name in found.entries:
        spelling, weights = weight_names.from_peft(name)
        is_a = name.endswith("lora_A.weight")
        for weight in filter(linears.__contains__, weights):
            spellings.add(spelling)
            rows, columns = linears[weight]
            part = None if is_a else weight_names.source_of(weight, spelling, model_config).rows
            sources[lora.adapter_names(weight)[0 if is_a else 1]] = Source(name, part)
            wanted[name] = (rank, columns) if is_a else (wanted.get(name, (0,))[0] + rows, rank)
    if len(spellings) > 1:
        raise ToolkitError(f"{where} mixes the names of two models, {' and '.join(sorted(spellings))}")
    weight_names.require_parameters({name: entry.shape for name, entry in found.entries.items()}, wanted,
                                    str(where), "give the base that the adapter was trained on, as --base; "
                                    "only linear layers inside the model's layers can be adapted here")
    odd = [name for name, entry in found.entries.items() if entry.dtype not in dtypes.FLAG_TYPES.values()]
    if odd:
        raise ToolkitError(f"{where}: {len(odd)} tensors are not fp16, bf16 or fp32 ({', '.join(odd)})")
    return sources


def _require_all(sources: Mapping[str, Source], model_config: Mapping[str, Any], where: Path) -> None:
    """Checks that the same cells are adapted in every layer, as a pattern of cell names says."""
    cells = {linear.name for linear in lora.matched_linears(model_config, model_config["pet_config"])}
    wanted = [matrix for name in weight_names.parameter_shapes(model_config) if name.endswith(".weight")
              and name.split(".")[-2] in cells for matrix in lora.adapter_names(name)]
    weight_names.require_parameters(dict.fromkeys(sources, ()), dict.fromkeys(wanted, ()), str(where),
                                    "an adapter of this toolkit has the same cells in every layer: merge "
                                    "this one with PEFT (merge_and_unload), then use weights.py from-hf")


def _write(found: HfFolder, sources: Mapping[str, Source], path: Path) -> None:
    """Writes the adapter's matrices."""
    check = dtypes.FiniteCheck("take an earlier adapter of that training")
    layout = {}
    for ours, source in sources.items():
        entry = found.entries[source.name]
        rows = sum(stop - start for start, stop in source.rows) if source.rows else entry.shape[0]
        layout[ours] = Entry((rows, entry.shape[1]), entry.dtype)

    def blocks_of(name: str) -> Iterator[np.ndarray]:
        source = sources[name]
        for start, stop in row_blocks(found.entries[source.name], source.rows):
            yield check.see(found.rows(source.name, start, stop), source.name)

    write_tensors(path, layout, blocks_of)
    found.close()
    check.finish()
