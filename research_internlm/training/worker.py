"""One worker of a training run: checks, run folder, continuing, training."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from research_internlm import recipes
from research_internlm.data.manifest import RunData
from research_internlm.model import cpu_patches, lora
from research_internlm.recipes.data_check import check_data
from research_internlm.runs import same_run, saved_steps
from research_internlm.runs.run_info import Parameters, RunInfo, read_run_info
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of, write_json
from research_internlm.shared.run_layout import RESOLVED_CONFIG, RUN_FACTS, is_run
from research_internlm.shared.schema import to_json
from research_internlm.training.command import check_base_weights, checkpoint_format


def rank() -> int:
    """This worker's rank as msrun sets it; 0 without msrun."""
    return int(os.environ.get("RANK_ID", "0"))


def is_scheduler() -> bool:
    """Whether msrun started this process to introduce the workers to each other; it trains nothing."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def worker_count() -> int:
    """Number of workers msrun started; 1 without msrun."""
    return int(os.environ.get("MS_WORKER_NUM", "1"))


def preflight(recipe: recipes.Recipe, arguments: argparse.Namespace
              ) -> tuple[Parameters, dict[str, RunData]]:
    """Checks everything that can be checked before a model is built.

    Returns:
        Facts for run.json: the model's parameters, and its data as check_data gives it.

    Raises:
        ToolkitError: Keys, types, LoRA targets, device or data do not fit together.
    """
    from research_internlm.recipes.check import check
    from research_internlm.training import registered  # noqa: F401 (what the check looks up)

    check(recipe)
    model_config = recipes.model_config(recipe)
    device = recipe["context"]["device_target"]
    cpu_patches.check_model_config(model_config, device)
    if device == "CPU" and recipe.get("runner_config", {}).get("sink_mode"):
        raise ToolkitError("runner_config.sink_mode is True on a CPU, where it multiplies the epochs; "
                           "add --overlay yaml/overlays/cpu_tiny.yaml")
    count = lora.count_parameters(model_config)
    parameters = Parameters(base=count.base, trainable=count.trainable, ratio=count.ratio,
                            lora_cells=count.matched)
    data = {} if recipe["run_mode"] == "predict" else check_data(recipe, arguments.config)
    own = Path(recipe["output_dir"], "checkpoint")
    if recipe.get("resume_training") is not True or not saved_steps.find_checkpoints(own).complete:
        check_base_weights(recipe)
    if recipe.get("use_parallel") and Path(recipe.get("load_checkpoint") or "").suffix == ".safetensors":
        raise ToolkitError(f"--load_checkpoint {recipe['load_checkpoint']}: under several workers "
                           "MindFormers takes a single file as .ckpt only; make one with weights.py "
                           "from-hf HF_DIR base.ckpt, or train with --use_parallel False")
    return parameters, data


def prepare_output(recipe: recipes.Recipe, parameters: Parameters, data: Mapping[str, RunData],
                   arguments: argparse.Namespace) -> None:
    """Writes resolved_config.yaml and run.json into the output folder, on rank 0 only.

    A run that goes on keeps those of its start: they name the base weights, not the last checkpoint.

    Raises:
        ToolkitError: The folder holds another run and this is neither a resume nor --overwrite.
    """
    folder = Path(recipe["output_dir"])
    resolved = folder / RESOLVED_CONFIG
    if is_run(folder) and recipe.get("resume_training"):
        changed = [*same_run.differences(recipes.load_yaml(resolved), recipe),
                   *same_run.data_differences(read_run_info(folder), data, worker_count())]
        if changed and not arguments.overwrite:
            raise ToolkitError(f"{folder} holds another run; {len(changed)} difference(s): "
                               f"{'; '.join(changed)}. Resume it with its own settings, or choose "
                               "another --output_dir")
        return
    if rank() != 0:
        return
    if is_run(folder) and not recipe.get("resume_training") and not arguments.overwrite:
        raise ToolkitError(f"{folder} already holds a run ({RESOLVED_CONFIG}); choose another --output_dir, "
                           "continue it with --resume_training True, or pass --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    resolved.unlink(missing_ok=True)
    write_json(folder / RUN_FACTS, to_json(RunInfo(
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        workers=worker_count(),
        device_target=recipe["context"]["device_target"],
        seed=recipe.get("seed"),
        versions={name: metadata.version(name)
                  for name in ("research-internlm", "mindspore", "mindformers", "numpy")},
        load_checkpoint_sha256=_checkpoint_sha256(recipe.get("load_checkpoint")),
        parameters=parameters,
        data=dict(data),
    )))
    recipes.write_resolved(recipe, resolved)  # last: hashing the base weights can take minutes


def _checkpoint_sha256(path: str | None) -> str | None:
    return sha256_of(path) if path and Path(path).is_file() else None


def continue_run(recipe: recipes.Recipe) -> None:
    """Points the recipe at the last complete checkpoint, if it is to continue a run.

    Raises:
        ToolkitError: There is no run to continue.
    """
    if recipe.get("resume_training") is not True:
        return
    given = recipe.get("load_checkpoint")
    own = Path(recipe["output_dir"], "checkpoint")
    folder = Path(given) if given and Path(given, "rank_0").is_dir() else own
    found = saved_steps.prepare(folder, rank())
    if found is None:
        if not is_run(Path(recipe["output_dir"])):
            raise ToolkitError(f"--resume_training True: {folder} holds no complete checkpoint and "
                               f"{recipe['output_dir']} no run; leave the flag out to start one")
        print("no complete checkpoint yet: the run starts again at step 1", flush=True)
        recipe["resume_training"] = False
        return
    step, path = found
    print(f"continuing from step {step} ({path})", flush=True)
    recipe |= {"load_checkpoint": str(folder), "resume_training": path.name,
               "callbacks": [{"type": "LossScaleCounters", "resumed_from": str(path)},
                             *recipe["callbacks"]]}


def train(recipe: recipes.Recipe) -> None:
    """Runs MindFormers' Trainer on the resolved recipe (finetune, or eval of the loss)."""
    os.environ.setdefault("LOG_MF_PATH", str(Path(recipe["output_dir"]) / "log"))
    from mindformers import MindFormerConfig, Trainer, build_context

    cpu_patches.adapt(recipe["context"]["device_target"])
    recipe["load_ckpt_format"] = checkpoint_format(recipe)
    # MindFormers fills in its template only for a file, and each process needs one of its own: rank 0's
    # resolved_config.yaml may not be there yet.
    with tempfile.TemporaryDirectory() as folder:
        config = MindFormerConfig(str(recipes.write_resolved(recipe, Path(folder) / RESOLVED_CONFIG)))
    build_context(config)
    trainer = Trainer(config)
    if recipe["run_mode"] == "finetune":
        trainer.train()
    else:
        trainer.evaluate(eval_checkpoint=recipe["load_checkpoint"] or None)
