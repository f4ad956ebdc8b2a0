"""Entry point: MMLU accuracy, SQuAD F1/EM, AI-text detection, loss of a checkpoint; scores of predictions.

    python research_internlm/evaluate.py mmlu  --config yaml/predict_mmlu.yaml --load_checkpoint CKPT \\
        --model_file tokenizer.model --test_file test_alpaca_format.json --output results_mmlu.json
    python research_internlm/evaluate.py squad --config yaml/predict_eval_squad.yaml --load_checkpoint CKPT \\
        --model_file tokenizer.model --squad_file dev-v1.1.json --output results_squad.json
    python research_internlm/evaluate.py squad-score --squad_file dev-v1.1.json \\
        --predictions predictions.json --output results_squad.json    (and detection-score: no model either)
    python research_internlm/evaluate.py loss  --file train.json --reference later.json ...   (as for mmlu)

Every task takes --quantized DIR and --kv_bits 8, which ask quantised weights and a quantised cache beside it.
The prompts are those of training (research_internlm/data/chat_template.py).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.evaluation import runner, side_by_side
from research_internlm.evaluation.scorings import SCORINGS
from research_internlm.evaluation.tasks import TASKS
from research_internlm.recipes.for_mindformers import set_scratch_log_folder
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import require_file, write_json
from research_internlm.shared.process_role import leave_job_variables_out
from research_internlm.shared.result_set import result_set
from research_internlm.shared.run_layout import PREDICTIONS
from research_internlm.shared.versions import require_installed_packages


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, task in TASKS.items():
        command = commands.add_parser(name, help=task.help)
        runner.add_model_options(command)
        side_by_side.add_options(command)
        _add_output_options(command, in_run_folder=True)
        task.add_options(command)
    for name, scoring in SCORINGS.items():
        command = commands.add_parser(name, help=scoring.help)
        _add_output_options(command, in_run_folder=False)
        scoring.add_options(command)
    return recipes.parse_command_line(parser, argv)


def _add_output_options(parser: argparse.ArgumentParser, in_run_folder: bool) -> None:
    output = parser.add_mutually_exclusive_group(required=True) if in_run_folder else parser
    output.add_argument("--output", type=Path, required=not in_run_folder, metavar="F.json",
                        help="results; the raw predictions go beside it as F.predictions.json")
    if in_run_folder:
        output.add_argument("--run_dir", metavar="RUN_DIR", help="in place of --output: results and log go "
                            "into this run folder, where report and submission look for them")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")


def evaluate(arguments: argparse.Namespace, started: float, staged: Path) -> dict[str, Any]:
    """Runs a task or a scoring, prints the verdict and returns the result.

    A task's raw predictions and pictures are written beside `staged`, where the result is to go.
    """
    if scoring := SCORINGS.get(arguments.command):
        result = scoring.score(arguments)
        print("\n".join(scoring.lines(result)))
        return result
    require_installed_packages()
    set_scratch_log_folder()
    from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)

    kind = TASKS[arguments.command]
    options = {option.name: getattr(arguments, option.name) for option in fields(kind)}
    model = runner.EvaluatedModel(arguments.config, arguments.load_checkpoint, arguments.model_file,
                                  arguments.overlay, arguments.overrides, arguments.device_target)
    task, others = kind(**options), side_by_side.compared(arguments)
    outcome = side_by_side.evaluate(task, lambda: kind(**options), model, others, arguments.limit, started)
    write_json(staged.with_suffix(PREDICTIONS), outcome.predictions)
    task.draw(outcome.result, outcome.predictions, staged)
    print("\n".join([*task.lines(outcome.result), *side_by_side.lines(outcome.result.get("quantised", {}))]))
    return outcome.result


def go_into_run_folder(arguments: argparse.Namespace) -> None:
    """Checks the machine, names the results and keeps the log."""
    from research_internlm.launching import evaluation_run

    run = Path(arguments.run_dir).absolute()
    recipe = recipes.resolve(arguments.config, arguments.overlay, arguments.overrides)
    evaluation_run.check_before_start(run, recipe, arguments.device_target)
    checkpoint = require_file(arguments.load_checkpoint, "--load_checkpoint")
    arguments.output = evaluation_run.claim_files(run, arguments.command, checkpoint, arguments.overwrite)


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    started = time.time()
    arguments = parse_arguments(argv)
    leave_job_variables_out()
    if arguments.output is None:
        go_into_run_folder(arguments)
    with result_set(arguments.output, arguments.overwrite, {arguments.output: None}) as results:
        staged = results.folder / arguments.output.name
        write_json(staged, evaluate(arguments, started, staged))
        beside = (*getattr(TASKS.get(arguments.command), "pictures", ()), PREDICTIONS)
        results.publish(*(staged.with_suffix(suffix).name for suffix in beside), staged.name)
    return 0


if __name__ == "__main__":
    run_main(main)
