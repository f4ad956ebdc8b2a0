"""Entry point: what an assistant's checkpoints answered to held-out questions, and which one to take.

    python research_internlm/answers.py output/assistant
    python research_internlm/answers.py output/assistant --output answers.json

Reads the answers.jsonl of a run whose AnswerMonitor asked the held-out questions that assistant_data.py
writes (callbacks.AnswerMonitor.prompts=F.held_out.json). Needs no model: the answers are those of the weights
that were saved.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from research_internlm.evaluation import checkpoint_answers
from research_internlm.runs.answers_file import read_answers
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import write_json
from research_internlm.shared.result_set import result_set
from research_internlm.shared.run_layout import ANSWERS
from research_internlm.shared.schema import to_json


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="output_dir of the run")
    parser.add_argument("--output", type=Path, metavar="F.json", help="also write the scores")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --output")
    arguments = parser.parse_args(argv)
    run = arguments.run
    if not run.is_dir():
        raise ToolkitError(f"{run} is no folder; give the output_dir of a run")
    path = run / ANSWERS
    if not (lines := read_answers(path)):
        raise ToolkitError(f"{path} has no answers; a training with AnswerMonitor among its callbacks writes "
                           "them")
    files = checkpoint_answers.weight_files(run)
    scores = checkpoint_answers.score_steps(lines, files, str(path))
    chosen = checkpoint_answers.best(scores)
    print("\n".join(checkpoint_answers.table(scores, chosen)))
    if missing := checkpoint_answers.unasked(scores, files):
        print(f"saved without answers: step(s) {', '.join(f'{step:,}' for step in missing)}")
    print(checkpoint_answers.advice(chosen))
    if arguments.output:
        with result_set(arguments.output, arguments.overwrite, {arguments.output: None}, [path]) as results:
            write_json(results.folder / arguments.output.name,
                       {"steps": to_json(scores), "take": chosen.step if chosen else None})
            results.publish(arguments.output.name)
    return 0


if __name__ == "__main__":
    run_main(main)
