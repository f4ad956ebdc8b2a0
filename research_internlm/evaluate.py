"""Entry point: MMLU accuracy and SQuAD F1/EM of a checkpoint, and scoring of a prediction file.

    python research_internlm/evaluate.py mmlu  --config yaml/predict_mmlu.yaml --load_checkpoint CKPT \\
        --model_file tokenizer.model --test_file test_alpaca_format.json --output results_mmlu.json
    python research_internlm/evaluate.py squad --config yaml/predict_eval_squad.yaml --load_checkpoint CKPT \\
        --model_file tokenizer.model --squad_file dev-v1.1.json --output results_squad.json
    python research_internlm/evaluate.py squad-score --squad_file dev-v1.1.json \\
        --predictions predictions.json --output results_squad.json

The prompts are those of training (research_internlm/data/chat_template.py). squad-score needs no MindSpore.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.evaluation import runner, squad
from research_internlm.evaluation.tasks import TASKS
from research_internlm.recipes.for_mindformers import set_scratch_log_folder
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import require_absent, require_file, write_json
from research_internlm.shared.process_role import leave_job_variables_out
from research_internlm.shared.run_layout import PREDICTIONS
from research_internlm.shared.versions import require_installed_packages


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, task in TASKS.items():
        command = commands.add_parser(name, help=task.help)
        _add_model_options(command)
        _add_output_options(command, in_run_folder=True)
        task.add_options(command)
    scoring = commands.add_parser("squad-score", help="score a prediction file")
    _add_output_options(scoring, in_run_folder=False)
    scoring.add_argument("--squad_file", required=True, metavar="F", help="SQuAD v1.1 JSON")
    scoring.add_argument("--predictions", required=True, metavar="F", help="{question id: text} JSON")
    return recipes.parse_command_line(parser, argv)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="predict recipe, e.g. yaml/predict_mmlu.yaml")
    parser.add_argument("--overlay", action="append", default=[], metavar="YAML",
                        help="yaml laid over the recipe (repeatable)")
    parser.add_argument("--load_checkpoint", required=True, metavar="P",
                        help="base, merged or full LoRA checkpoint")
    parser.add_argument("--model_file", required=True, metavar="F", help="tokenizer.model of the weights")
    parser.add_argument("--device_target", choices=("CPU", "Ascend"),
                        help="default: the recipe's context.device_target")
    parser.add_argument("--limit", type=whole(1), metavar="N",
                        help="only the first N questions (the results say so)")


def _add_output_options(parser: argparse.ArgumentParser, in_run_folder: bool) -> None:
    output = parser.add_mutually_exclusive_group(required=True) if in_run_folder else parser
    output.add_argument("--output", required=not in_run_folder, metavar="F.json",
                        help="results; the raw predictions go beside it as F.predictions.json")
    if in_run_folder:
        output.add_argument("--run_dir", metavar="RUN_DIR", help="in place of --output: results and log go "
                            "into this run folder, where report and submission look for them")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")


def evaluate(arguments: argparse.Namespace, started: float) -> dict[str, Any]:
    """Runs a task: writes the raw predictions, prints the verdict and returns the result."""
    require_installed_packages()
    set_scratch_log_folder()
    from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)

    kind = TASKS[arguments.command]
    task = kind(**{option.name: getattr(arguments, option.name) for option in fields(kind)})
    model = runner.EvaluatedModel(arguments.config, arguments.load_checkpoint, arguments.model_file,
                                  arguments.overlay, arguments.overrides, arguments.device_target)
    result, predictions = runner.evaluate(task, model, arguments.limit, started)
    write_json(Path(arguments.output).with_suffix(PREDICTIONS), predictions)
    print("\n".join(task.lines(result)))
    return result


def go_into_run_folder(arguments: argparse.Namespace) -> None:
    """Checks the machine, names the results and keeps the log."""
    from research_internlm.launching import evaluation_run

    run = Path(arguments.run_dir).absolute()
    checkpoint = require_file(arguments.load_checkpoint, "--load_checkpoint")
    recipe = recipes.resolve(arguments.config, arguments.overlay, arguments.overrides)
    evaluation_run.check_before_start(run, recipe, arguments.device_target)
    arguments.output, log = evaluation_run.output_files(run, arguments.command, checkpoint)
    require_absent(arguments.output, arguments.overwrite)
    evaluation_run.keep_log(log, arguments.overwrite)


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    started = time.time()
    arguments = parse_arguments(argv)
    leave_job_variables_out()
    if arguments.output is None:
        go_into_run_folder(arguments)
    require_absent(arguments.output, arguments.overwrite)
    if arguments.command == "squad-score":
        result = squad.score_file(arguments.squad_file, arguments.predictions)
        print("\n".join(squad.verdict_lines(result)))
    else:
        result = evaluate(arguments, started)
    write_json(arguments.output, result)
    return 0


if __name__ == "__main__":
    run_main(main)
