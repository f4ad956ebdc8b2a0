"""Entry point: fine-tune, evaluate the loss, or predict with InternLM through MindFormers' Trainer.

    python research_internlm/run_internlm.py --config yaml/lora_finetune.yaml --run_mode finetune \\
        --train_dataset train.mindrecord --eval_dataset valid.mindrecord --load_checkpoint base.ckpt \\
        --output_dir output/run1 [--overlay yaml/overlays/cpu_tiny.yaml] [key.path=value ...]

Under msrun every worker runs this file; rank 0 writes the resolved config and run.json before step 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from research_internlm import lora, portable
from research_internlm import recipe as recipes
from research_internlm.contest import resume
from research_internlm.dataset_check import check_data, fill_from_data
from research_internlm.errors import ToolkitError, run_main
from research_internlm.files import read_json, sha256_of, write_json
from research_internlm.recipe import RESOLVED_CONFIG, RUN_FACTS


def boolean(text: str) -> bool:
    """Reads True or False as upstream's flags are written; anything else is an argparse error."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     epilog="Any key of the recipe can follow as key.path=value, e.g. "
                                     "runner_config.epochs=2 callbacks.CheckpointMonitor.prefix=run2")
    add = parser.add_argument
    add("--config", required=True, help="recipe yaml, e.g. yaml/lora_finetune.yaml")
    add("--overlay", action="append", default=[], metavar="YAML",
        help="yaml laid over the recipe (repeatable), e.g. yaml/overlays/cpu_tiny.yaml")
    add("--run_mode", choices=("finetune", "eval", "predict"), help="default: the recipe's run_mode")
    add("--train_dataset", metavar="F", help="training MindRecord, rows of seq_length + 1 tokens")
    add("--eval_dataset", metavar="F", help="evaluation MindRecord, rows of seq_length tokens; for "
        "finetune it also switches do_eval on")
    add("--load_checkpoint", metavar="P", help="base weights, or the folder holding rank_0/ when resuming")
    add("--output_dir", metavar="D", help="folder of this run: checkpoints, logs, resolved_config.yaml")
    add("--use_parallel", type=boolean, metavar="True|False", help="True under msrun with several workers")
    add("--resume_training", metavar="True|NAME", help="True: continue from the last complete checkpoint of "
        "--output_dir (of --load_checkpoint where that is a folder with rank_0/); or a rank 0 file's name")
    add("--device_target", choices=("CPU", "Ascend"), help="default: the recipe's context.device_target")
    add("--predict_data", metavar="TEXT|F", help="for predict: a question, or a file (alpaca .json, or "
        "one question a line)")
    add("--model_file", metavar="F", help="for predict: tokenizer.model of the weights")
    add("--overwrite", action="store_true", help="use an output_dir that already holds a run")
    return recipes.parse_command_line(parser, argv)


def resolve(arguments: argparse.Namespace) -> recipes.Recipe:
    """Merges recipe, overlays and command line into the configuration of this run.

    Raises:
        ToolkitError: A file cannot be read, or a flag does not fit the recipe.
    """
    recipe = recipes.resolve(arguments.config, arguments.overlay, arguments.overrides)
    for key in ("run_mode", "load_checkpoint", "output_dir", "use_parallel"):
        if getattr(arguments, key) is not None:
            recipe[key] = getattr(arguments, key)
    if arguments.resume_training is not None:
        text = arguments.resume_training
        recipe["resume_training"] = text.lower() == "true" if text.lower() in ("true", "false") else text
    if arguments.device_target:
        recipe.setdefault("context", {})["device_target"] = arguments.device_target
    for flag in ("train_dataset", "eval_dataset"):
        path = getattr(arguments, flag)
        if path is None:
            continue
        if flag not in recipe:
            raise ToolkitError(f"--{flag} {path}: {arguments.config} has no {flag} section to put it in")
        recipe[flag]["data_loader"]["dataset_dir"] = str(Path(path).absolute())
        if flag == "eval_dataset" and recipe.get("run_mode") == "finetune":
            recipe["do_eval"] = True
    for key in ("output_dir", "load_checkpoint"):
        if recipe.get(key):
            recipe[key] = str(Path(recipe[key]).absolute())
    _limit_data_threads(recipe)
    return recipe


def _limit_data_threads(recipe: recipes.Recipe) -> None:
    """MindData refuses more threads than the machine has cores, whatever the device."""
    for section in ("train_dataset", "eval_dataset"):
        threads = recipe.get(section, {}).get("num_parallel_workers", 1)
        if threads > (os.cpu_count() or 1):
            recipe[section]["num_parallel_workers"] = os.cpu_count()


def rank() -> int:
    """This worker's rank as msrun sets it; 0 without msrun."""
    return int(os.environ.get("RANK_ID", "0"))


def is_scheduler() -> bool:
    """Whether msrun started this process to introduce the workers to each other; it trains nothing."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def worker_count() -> int:
    """Number of workers msrun started; 1 without msrun."""
    return int(os.environ.get("MS_WORKER_NUM", "1"))


def preflight(recipe: recipes.Recipe, arguments: argparse.Namespace) -> dict[str, Any]:
    """Checks everything that can be checked before a model is built.

    Returns:
        Facts for run.json: parameter counts and the manifests' data facts.

    Raises:
        ToolkitError: Keys, types, LoRA targets, device or data do not fit together.
    """
    from research_internlm.recipe_check import check

    check(recipe)
    model_config = recipes.model_config(recipe)
    device = recipe["context"]["device_target"]
    portable.check_model_config(model_config, device)
    if device == "CPU" and recipe.get("runner_config", {}).get("sink_mode"):
        raise ToolkitError("runner_config.sink_mode is True on a CPU, where it multiplies the epochs; "
                           "add --overlay yaml/overlays/cpu_tiny.yaml")
    count = lora.count_parameters(model_config)
    if rank() == 0:
        print(count, flush=True)
    facts: dict[str, Any] = {"parameters": {
        "base": count.base, "trainable": count.trainable, "ratio": count.ratio,
        "contest_ratio": count.contest_ratio, "lora_cells": count.matched}}
    if recipe["run_mode"] != "predict":
        facts["data"] = check_data(recipe, arguments.config)
    own = Path(recipe["output_dir"], "checkpoint")
    if recipe.get("resume_training") is not True or not resume.find_checkpoints(own).complete:
        check_base_weights(recipe)
    if recipe.get("use_parallel") and Path(recipe.get("load_checkpoint") or "").suffix == ".safetensors":
        raise ToolkitError(f"--load_checkpoint {recipe['load_checkpoint']}: under several workers "
                           "MindFormers takes a single file as .ckpt only; make one with weights.py "
                           "from-hf HF_DIR base.ckpt, or train with --use_parallel False")
    return facts


def checkpoint_format(recipe: recipes.Recipe) -> str:
    """load_ckpt_format as the suffix of the file to load says it; the recipe's where that is a folder.

    Not part of the resolved config: a resume loads other files than the run's start.
    """
    resumed = recipe.get("resume_training")
    suffix = Path(resumed if isinstance(resumed, str) else recipe.get("load_checkpoint") or "").suffix
    return suffix[1:] if suffix in (".ckpt", ".safetensors") else recipe.get("load_ckpt_format", "ckpt")


def check_base_weights(recipe: recipes.Recipe) -> None:
    """Looks for the base weights; a run that goes on from a checkpoint of its own needs them not.

    Raises:
        ToolkitError: They are not where the recipe says.
    """
    path = recipe.get("load_checkpoint")
    if path and not Path(path).exists():
        raise ToolkitError(f"--load_checkpoint {path} does not exist")


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run: both its files; one alone is what a kill at the start leaves."""
    return (folder / RESOLVED_CONFIG).is_file() and (folder / RUN_FACTS).is_file()


def prepare_output(recipe: recipes.Recipe, facts: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Writes resolved_config.yaml and run.json into the output folder, on rank 0 only.

    A run that goes on keeps those of its start: they name the base weights, not the last checkpoint.

    Raises:
        ToolkitError: The folder holds another run and this is neither a resume nor --overwrite.
    """
    folder = Path(recipe["output_dir"])
    resolved = folder / RESOLVED_CONFIG
    if is_run(folder) and recipe.get("resume_training"):
        changed = [*resume.differences(recipes.load_yaml(resolved), recipe),
                   *resume.data_differences(read_json(folder / RUN_FACTS, "the run's facts"),
                                            facts.get("data", {}), worker_count())]
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
    write_json(folder / RUN_FACTS, {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "workers": worker_count(),
        "device_target": recipe["context"]["device_target"],
        "seed": recipe.get("seed"),
        "versions": {name: metadata.version(name)
                     for name in ("research-internlm", "mindspore", "mindformers", "numpy")},
        "load_checkpoint_sha256": _checkpoint_sha256(recipe.get("load_checkpoint")),
        **facts,
    })
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
    found = resume.prepare(folder, rank())
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

    portable.adapt(recipe["context"]["device_target"])
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


def main() -> int:
    """Runs the entry point."""
    arguments = parse_arguments()
    recipe = resolve(arguments)
    if not recipe.get("output_dir"):
        raise ToolkitError("no --output_dir given and the recipe names none")
    os.environ.setdefault("LOG_MF_PATH", str(Path(recipe["output_dir"]) / "log"))
    if is_scheduler() and not recipe.get("use_parallel"):
        return 0  # a single worker meets nobody
    if not is_scheduler():
        facts = preflight(recipe, arguments)
        fill_from_data(recipe, facts.get("data", {}), worker_count())
        prepare_output(recipe, facts, arguments)
        continue_run(recipe)
    if recipe["run_mode"] == "predict":
        from research_internlm.generation import predict

        predict(recipe, arguments.predict_data, arguments.model_file)
    else:
        train(recipe)
    return 0


if __name__ == "__main__":
    run_main(main)
