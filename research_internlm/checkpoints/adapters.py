"""A trained adapter and the run it came from: the run's resolved config says rank, targets and scaling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.checkpoints import hf_config, weight_names
from research_internlm.checkpoints.tensor_files import SUFFIXES, TensorFile
from research_internlm.model import lora
from research_internlm.shared import run_layout, schema
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json
from research_internlm.shared.run_layout import RESOLVED_CONFIG, RUN_FACTS


@dataclass
class Adapter:
    """An adapter checked against its run.

    Attributes:
        file: The opened checkpoint: an adapter alone, or base and adapter together.
        config_file: The run's resolved config.
        model_config: The run's `model.model_config`.
        weights: Names of the base weights it changes, in the model's order.
        base_sha256: Of the checkpoint the run started from; None where run.json does not say.
    """

    file: TensorFile
    config_file: Path
    model_config: Mapping[str, Any]
    weights: list[str]
    base_sha256: str | None

    @property
    def run_facts(self) -> bool:
        """Whether the run's run.json is there."""
        return self.config_file.with_name(RUN_FACTS).exists()

    @property
    def pet_config(self) -> Mapping[str, Any]:
        return self.model_config["pet_config"]

    @property
    def holds_base(self) -> bool:
        """Whether the frozen base weights are in the file too."""
        return self.weights[0] in self.file.entries

    def full_checkpoints(self) -> list[Path]:
        """The run's checkpoints of base and adapter together, newest first."""
        files = run_layout.rank_files(run_layout.checkpoint_dir(self.config_file.parent),
                                      suffixes=SUFFIXES.values())
        return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)


@dataclass(frozen=True)
class BaseOfRun:
    """The one fact of run.json (runs/run_info.py) that tells the base of an adapter.

    Only this is asked of the file: it may lie beside an adapter that was copied out of its run.
    """

    load_checkpoint_sha256: str | None = None


def require_no_peft(path: Path) -> None:
    """Refuses an adapter of PEFT or XTuner, by its folder's adapter_config.json or its tensors' names.

    Args:
        path: A folder, or a file of weights.

    Raises:
        ToolkitError: It is one; modules that were trained as a whole are named.
    """
    config_file = (path if path.is_dir() else path.parent) / "adapter_config.json"
    if path.is_file() and path.suffix in SUFFIXES.values():
        with TensorFile(path, "the adapter") as file:
            foreign = any(map(weight_names.is_peft, file.entries))
    else:
        foreign = config_file.is_file() and not config_file.with_name("config.json").is_file()
    if not foreign:
        return
    config = read_json(config_file, "the adapter's config") if config_file.is_file() else {}
    whole = config.get("modules_to_save") if isinstance(config, dict) else None
    named = f" with modules_to_save {', '.join(map(str, whole))}" if isinstance(whole, list) and whole else ""
    advice = ("merge this one with PEFT (merge_and_unload), then convert the merged model with weights.py "
              "from-hf" if named else "convert it with weights.py from-peft")
    raise ToolkitError(f"{path} is an adapter of PEFT or XTuner{named}; this toolkit's merge takes "
                       f"adapters of its own form: {advice}")


def run_config_of(path: Path) -> Path:
    """The resolved config of the run that wrote a checkpoint.

    Beside the checkpoint, or in the folder of a run that the checkpoint lies in as runs lay them out; any
    other folder above it may be another run's.

    Raises:
        ToolkitError: There is none; the text names the folders searched.
    """
    folders = [path.absolute().parent]
    if run := run_layout.run_of(path.absolute()):
        folders.append(run)
    for place in folders:
        if (place / RESOLVED_CONFIG).is_file():
            return place / RESOLVED_CONFIG
    raise ToolkitError(
        f"the scaling of {path} is in its run's {RESOLVED_CONFIG}, which is not in "
        f"{' or '.join(map(str, folders))}; copy the run's {RESOLVED_CONFIG} and {RUN_FACTS} beside the "
        "adapter")


def open_adapter(path: Path) -> Adapter:
    """Opens an adapter and checks it against its run's config.

    Args:
        path: Of checkpoint_trainable/ (the adapter alone) or checkpoint/ (base and adapter).

    Raises:
        ToolkitError: No config, no adapter in the file, or rank, targets or shapes are not the config's.
    """
    require_no_peft(path)
    config_file = run_config_of(path)
    model_config = recipes.model_config(recipes.load_yaml(config_file))
    hf_config.check_model_config(model_config, str(config_file))
    pet_config = model_config.get("pet_config")
    if not pet_config:
        raise ToolkitError(f"{config_file} has no model.model_config.pet_config: the run trained no adapter")
    file = TensorFile(path, "the adapter")
    found = {name: entry.shape for name, entry in file.entries.items() if weight_names.is_adapter(name)}
    if not found:
        raise ToolkitError(f"{path} holds no LoRA matrices (they end in mindpet_delta_lora_a and _b): it is "
                           "a base or already merged checkpoint; give the run's "
                           "checkpoint_trainable/rank_0/*.ckpt")
    weights, wanted = _expected(model_config)
    rank = lora.setting(pet_config, "lora_rank")
    weight_names.require_parameters(found, wanted, str(path), f"{config_file} (lora_rank {rank}) is another "
                                    "run's, or the file is incomplete")
    return Adapter(file, config_file, model_config, weights, _base_sha256(config_file))


def _expected(model_config: Mapping[str, Any]) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Names of the adapted weights, and names and shapes of their LoRA matrices."""
    cells = {linear.name for linear in lora.matched_linears(model_config, model_config["pet_config"])}
    rank = lora.setting(model_config["pet_config"], "lora_rank")
    weights, shapes = [], {}
    for name, shape in weight_names.parameter_shapes(model_config).items():
        if name.endswith(".weight") and name.split(".")[-2] in cells:
            weights.append(name)
            lora_a, lora_b = lora.adapter_names(name)
            shapes[lora_a], shapes[lora_b] = (rank, shape[1]), (shape[0], rank)
    return weights, shapes


def _base_sha256(config_file: Path) -> str | None:
    path = config_file.with_name(RUN_FACTS)
    if not path.exists():
        return None
    return schema.read(path, BaseOfRun, "the run's facts", "restore the run's own").load_checkpoint_sha256


def peft_config(adapter: Adapter, base_model: str | None) -> str:
    """adapter_config.json as PEFT reads it; `base_model` is what AutoPeftModelForCausalLM loads below it."""
    pet = adapter.pet_config
    cells = {weight_names.to_hf(name).split(".")[-2] for name in adapter.weights}
    return json.dumps({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.setting(pet, "lora_rank"),
        "lora_alpha": lora.setting(pet, "lora_alpha"),
        "lora_dropout": lora.setting(pet, "lora_dropout"),
        "target_modules": sorted(cells),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
    }, indent=2)
