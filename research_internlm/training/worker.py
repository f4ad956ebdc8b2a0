"""One process of a training run: checks, run folder, continuing, training; or the workers' rendezvous."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from research_internlm import recipes
from research_internlm.data.manifest import RunData
from research_internlm.model import cpu_patches, lora
from research_internlm.recipes.data_check import check_data, require_unchanged
from research_internlm.recipes.for_mindformers import mindformers_config
from research_internlm.runs import same_run, saved_steps
from research_internlm.runs.run_info import Parameters, RunInfo
from research_internlm.shared import run_layout, versions
from research_internlm.shared.errors import ToolkitError, added_to
from research_internlm.shared.files import require_file, sha256_of, write_json
from research_internlm.shared.process_role import rank, worker_count
from research_internlm.shared.processes import RUN_MARK
from research_internlm.shared.run_layout import RESOLVED_CONFIG, RUN_FACTS, is_run
from research_internlm.shared.schema import to_json
from research_internlm.training.command import (
    base_weight_problems,
    base_weights,
    checkpoint_format,
    state_problems,
)
from research_internlm.training.preflight import recipe_problems


def preflight(recipe: recipes.Recipe, arguments: argparse.Namespace
              ) -> tuple[Parameters, dict[str, RunData]]:
    """Checks everything that can be checked before a model is built.

    Returns:
        Facts for run.json: the model's parameters, and its data as check_data gives it.

    Raises:
        ToolkitError: Keys, types, LoRA targets, device or data do not fit together.
    """
    versions.require_installed_packages()
    wrong = recipe_problems(recipe)
    problems = [f"{len(wrong)} wrong setting(s) in the config: {'; '.join(wrong)}"] if wrong else []
    data: dict[str, RunData] = {}
    launched = os.environ.get(RUN_MARK) == str(Path(recipe["output_dir"]).resolve())
    if recipe.get("run_mode") != "predict":
        with added_to(problems):
            data = check_data(recipe, arguments.config)
            for section, fact in data.items():
                if rank() == 0 and not launched:  # the launcher has read every byte already
                    require_unchanged(fact.file, f"--{section}")
    last = saved_steps.last_save(saved_steps.find_saves(Path(recipe["output_dir"])))
    if recipe.get("resume_training") is not True or last is None:
        problems += base_weight_problems(recipe)
    elif run_layout.is_state(last):
        with added_to(problems):
            problems += state_problems(recipe, with_bytes=rank() == 0 and not launched)
    if problems:
        raise ToolkitError("; ".join(problems))
    count = lora.count_parameters(recipes.model_config(recipe))
    return Parameters(base=count.base, trainable=count.trainable, ratio=count.ratio,
                      lora_cells=count.matched), data


def prepare_output(recipe: recipes.Recipe, parameters: Parameters, data: Mapping[str, RunData],
                   arguments: argparse.Namespace) -> None:
    """Writes resolved_config.yaml and run.json into the output folder, on rank 0 only.

    A run that is continued keeps those of its start: they name the base weights, not the last checkpoint.

    Raises:
        ToolkitError: The folder holds another run and this is neither a resume nor --overwrite.
    """
    folder = Path(recipe["output_dir"])
    resolved = folder / RESOLVED_CONFIG
    if is_run(folder) and recipe.get("resume_training"):
        changed = same_run.run_differences(folder, recipe, data, worker_count())
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
        imported_from=versions.imported_from(),
        load_checkpoint_sha256=_checkpoint_sha256(recipe.get("load_checkpoint")),
        parameters=parameters,
        data=dict(data),
    )))
    recipes.write_resolved(recipe, resolved)  # last: hashing the base weights can take minutes


def _checkpoint_sha256(path: str | None) -> str | None:
    return sha256_of(path) if path and Path(path).is_file() else None


def continue_run(recipe: recipes.Recipe) -> None:
    """Points the recipe at the save that this worker is to continue from, if there is one.

    Raises:
        ToolkitError: There is no run to continue, or not the named file.
    """
    asked, run = recipe.get("resume_training"), Path(recipe["output_dir"])
    if not asked:
        return
    given = recipe.get("load_checkpoint")
    folder = Path(given) if given and run_layout.rank_dir(Path(given), 0).is_dir() else None
    if isinstance(asked, str):
        save = _named(folder or run_layout.checkpoint_dir(run), asked)
    else:
        found = saved_steps.find_checkpoints(folder) if folder else saved_steps.find_saves(run)
        saved_steps.set_aside(found.broken, rank())
        save = saved_steps.last_save(found, rank())
    if save is None:
        if not is_run(run):
            raise ToolkitError(f"--resume_training True: {folder or run} holds no complete checkpoint and "
                               f"{run} no run; leave the flag out to start one")
        print("no complete checkpoint yet: the run starts again at step 1", flush=True)
        recipe["resume_training"] = False
        return
    print(f"continuing from step {saved_steps.complete_step(save)} ({save})", flush=True)
    base = base_weights(recipe) if run_layout.is_state(save) else None
    links, name = saved_steps.load_folder(run, rank(), save, base)
    recipe |= {"load_checkpoint": str(links), "resume_training": name,
               "callbacks": [{"type": "LossScaleCounters", "resumed_from": str(save)}, *recipe["callbacks"]]}


def _named(folder: Path, name: str) -> Path:
    """This rank's file of a name that is given for rank 0; rank 0's own where that rank wrote none."""
    path = run_layout.rank_dir(folder, rank()) / run_layout.for_rank(name, rank())
    return path if path.exists() else require_file(run_layout.rank_dir(folder, 0) / name, "--resume_training")


def serve_workers(device_target: str) -> None:
    """Is the workers' rendezvous (msrun's scheduler) until they have ended.

    What MindFormers' build_context does for it, without MindFormers, whose import takes seconds of CPU.
    """
    import mindspore
    from mindspore.communication import init

    mindspore.set_context(device_target=device_target)
    init()


def train(recipe: recipes.Recipe) -> None:
    """Runs MindFormers' Trainer on the resolved recipe (finetune, or eval of the loss)."""
    from mindformers import Trainer, build_context

    cpu_patches.adapt(recipe["context"]["device_target"])
    recipe["load_ckpt_format"] = checkpoint_format(recipe)
    config = mindformers_config(recipe)
    build_context(config)
    trainer = Trainer(config)
    if recipe["run_mode"] == "finetune":
        trainer.train()
    else:
        trainer.evaluate(eval_checkpoint=recipe["load_checkpoint"] or None)
