"""Entry point: what an assistant's checkpoints answered to held-out questions, and which one to take.

    python research_internlm/answers.py output/assistant
    python research_internlm/answers.py output/assistant --questions assistant.held_out.json \\
        --model_file tokenizer.model --output answers.json

Reads the answers.jsonl of a run whose AnswerMonitor asked the held-out questions that assistant_data.py
writes (callbacks.AnswerMonitor.prompts=F.held_out.json); that needs no model. With --questions it loads the
checkpoints of the run and asks them.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from research_internlm.evaluation import checkpoint_answers
from research_internlm.runs.answers_file import StepAnswers, read_answers
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import write_json
from research_internlm.shared.process_role import leave_job_variables_out
from research_internlm.shared.result_set import result_set
from research_internlm.shared.run_layout import ANSWERS
from research_internlm.shared.schema import to_json
from research_internlm.shared.versions import require_installed_packages
from research_internlm.training.checkpoint_asking import ask_checkpoints


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="output_dir of the run")
    parser.add_argument("--questions", metavar="F.json", help="held-out questions to ask each checkpoint "
                        "now, on the device of the run (default: read what AnswerMonitor has asked)")
    parser.add_argument("--model_file", metavar="F", help="tokenizer.model of the weights, with --questions")
    parser.add_argument("--max_new_tokens", type=whole(1), default=64, metavar="N",
                        help="longest answer, with --questions (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="F.json", help="also write the scores")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --output")
    arguments = parser.parse_args(argv)
    if arguments.questions and not arguments.model_file:
        parser.error("--questions needs --model_file")
    return arguments


def answers_of(arguments: argparse.Namespace, files: dict[int, list[str]]) -> list[StepAnswers]:
    """The answers that are there, or those of the checkpoints asked now."""
    path = arguments.run / ANSWERS
    if arguments.questions:
        if not files:
            raise ToolkitError(f"{arguments.run} has no complete checkpoint to ask")
        with contextlib.redirect_stdout(sys.stderr):
            leave_job_variables_out()
            require_installed_packages()
            return list(ask_checkpoints(arguments.run, files, arguments.questions, arguments.model_file,
                                        arguments.max_new_tokens))
    if not (lines := read_answers(path)):
        raise ToolkitError(f"{path} has no answers: a training with AnswerMonitor among its callbacks writes "
                           "them; to ask the checkpoints now, give --questions and --model_file")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    run = arguments.run
    if not run.is_dir():
        raise ToolkitError(f"{run} is no folder; give the output_dir of a run")
    files = checkpoint_answers.weight_files(run)
    source = arguments.questions or str(run / ANSWERS)
    scores = checkpoint_answers.score_steps(answers_of(arguments, files), files, source)
    chosen = checkpoint_answers.best(scores)
    print("\n".join(checkpoint_answers.table(scores, chosen)))
    if missing := checkpoint_answers.unasked(scores, files):
        print(f"saved without answers: step(s) {', '.join(f'{step:,}' for step in missing)}")
    print(checkpoint_answers.advice(chosen))
    if arguments.output:
        with result_set(arguments.output, arguments.overwrite, {arguments.output: None}) as results:
            write_json(results.folder / arguments.output.name,
                       {"steps": to_json(scores), "take": chosen.step if chosen else None})
            results.publish(arguments.output.name)
    return 0


if __name__ == "__main__":
    run_main(main)
