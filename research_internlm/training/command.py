"""The command line of run_internlm.py and the configuration it resolves to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from research_internlm import recipes
from research_internlm.checkpoints import weight_names
from research_internlm.checkpoints.header import read_header
from research_internlm.checkpoints.model_match import weights_problems
from research_internlm.recipes.structure import OWN_MODE, RUN_MODES
from research_internlm.runs.run_info import read_run_info
from research_internlm.runs.saved_steps import find_checkpoints
from research_internlm.shared import run_layout
from research_internlm.shared.arguments import is_whole
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import require_utf8_name, sha256_of
from research_internlm.training.answer_prompts import ANSWER_MONITOR


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
    add("--run_mode", choices=RUN_MODES, help="default: the recipe's run_mode")
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
    add("--model_file", metavar="F", help="for predict and AnswerMonitor: tokenizer.model of the weights")
    add("--overwrite", action="store_true", help="use an output_dir that already holds a run")
    return recipes.parse_command_line(parser, argv)


def resolve(arguments: argparse.Namespace) -> recipes.Recipe:
    """Merges recipe, overlays and command line into the configuration of this run.

    Raises:
        ToolkitError: A file cannot be read, or a flag does not fit the recipe.
    """
    recipe = recipes.resolve(arguments.config, arguments.overlay, arguments.overrides,
                             arguments.run_mode or OWN_MODE,
                             {"context.device_target"} if arguments.device_target else ())
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
    _place_answer_files(recipe, arguments.model_file)
    for key in ("output_dir", "load_checkpoint"):
        if recipe.get(key):
            require_utf8_name(recipe[key], f"--{key}")
            recipe[key] = str(Path(recipe[key]).absolute())
    _limit_data_threads(recipe)
    return recipe


def _place_answer_files(recipe: recipes.Recipe, model_file: str | None) -> None:
    """Gives AnswerMonitor the tokenizer, and makes its files absolute, as those of the data are."""
    monitor = recipes.callback(recipe, ANSWER_MONITOR)
    if monitor is None:
        return
    monitor["model_file"] = model_file or monitor.get("model_file")
    for key in ("prompts", "model_file"):
        if isinstance(monitor.get(key), str) and monitor[key]:
            monitor[key] = str(Path(monitor[key]).absolute())


def _limit_data_threads(recipe: recipes.Recipe) -> None:
    """MindData refuses more threads than the machine has cores, whatever the device."""
    for section in ("train_dataset", "eval_dataset"):
        threads = recipe.get(section, {}).get("num_parallel_workers", 1)
        if is_whole(threads, (os.cpu_count() or 1) + 1):
            recipe[section]["num_parallel_workers"] = os.cpu_count()


def checkpoint_format(recipe: recipes.Recipe) -> str:
    """load_ckpt_format as the suffix of the file to load says it; the recipe's where that is a folder.

    Not part of the resolved config: a resume loads other files than the run's start.
    """
    resumed = recipe.get("resume_training")
    suffix = Path(resumed if isinstance(resumed, str) else recipe.get("load_checkpoint") or "").suffix
    return suffix[1:] if suffix in (".ckpt", ".safetensors") else recipe.get("load_ckpt_format", "ckpt")


def base_weight_problems(recipe: recipes.Recipe) -> Iterator[str]:
    """What keeps a run from starting on its --load_checkpoint: no weights, incomplete or another model's.

    A run that continues from a checkpoint of its own does not need them.
    """
    if not recipe.get("load_checkpoint"):
        return
    path, resumed = Path(recipe["load_checkpoint"]), recipe.get("resume_training")
    paths = [path]
    if resumed and run_layout.rank_dir(path, 0).is_dir():
        if isinstance(resumed, str):
            paths = [run_layout.rank_dir(path, 0) / resumed]
        elif (found := find_checkpoints(path)).complete:  # broken files are passed over
            paths = list(found.complete[found.last].values())
    for path in paths:
        yield from weights_problems(path, recipes.model_config(recipe))


def base_weights(recipe: recipes.Recipe) -> Path | None:
    """The base weights of a run: --load_checkpoint, or, where a resume leaves it out, that of its start."""
    given, resolved = recipe.get("load_checkpoint"), Path(recipe["output_dir"]) / run_layout.RESOLVED_CONFIG
    if not given and resolved.is_file():
        given = recipes.load_yaml(resolved).get("load_checkpoint")
    return Path(given) if given else None


def settle_saves(recipe: recipes.Recipe) -> None:
    """Makes every save a full one where a state could not be continued from: without adapter or base weights.

    MindFormers joins state and base from .ckpt files, in no certain order, so the base must hold neither an
    adapter nor an optimizer's state.
    """
    monitor = recipes.callback(recipe, "CheckpointMonitor")
    if monitor is None or monitor.get("full_checkpoints") != "five":
        return
    base = base_weights(recipe)
    possible = (recipes.model_config(recipe).get("pet_config") and base is not None and base.is_file()
                and base.suffix == ".ckpt" and monitor.get("checkpoint_format", "ckpt") == "ckpt"
                and not any(weight_names.is_training_state(name) or weight_names.is_adapter(name)
                            for name in read_header(base)))
    if not possible:
        monitor["full_checkpoints"] = "all"


def state_problems(recipe: recipes.Recipe, with_bytes: bool) -> Iterator[str]:
    """What keeps a run from continuing from a state: base weights that are missing or not those of its start.

    Args:
        recipe: The resolved recipe.
        with_bytes: Whether to read every byte of the weights, which takes seconds a gigabyte.
    """
    base, run = base_weights(recipe), Path(recipe["output_dir"])
    what = "--load_checkpoint"
    if base is None or not base.is_file():
        yield (f"{what} {base or ''}: the last save of {run} holds adapter and optimizer state only and "
               "continues on the base weights of its start, which are not there; put them there, or move "
               f"{run_layout.state_dir(run)} away to continue from the last full checkpoint")
        return
    yield from weights_problems(base, recipes.model_config(recipe), what)
    started = read_run_info(run).load_checkpoint_sha256
    if with_bytes and started not in (None, sha256_of(base)):
        yield (f"{what} {base} is not the file the run in {run} was started from (sha256 {started}): give "
               "that file")
