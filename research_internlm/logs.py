"""Entry point: what a run's logs say, while it runs or long after.

    python research_internlm/logs.py output/run1
    python research_internlm/logs.py worker_0.log --output analysis

Writes train_log.csv, train_loss.png, valid_loss.png and summary.json, prints a summary, and warns of a
loss that stands still, of NaN and of a rank that lags. Numbers come from the run's train_log.jsonl where it
has one, and from its text logs. Answers of AnswerMonitor stand step under step; answers.csv has all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from research_internlm.runs.answers_file import StepAnswers, answers_of, examples, read_answers
from research_internlm.runs.log_summary import OUTPUT_FOLDER, analyse
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.run_layout import ANSWERS

_RESTARTS_SHOWN = 5


def describe(summary: Mapping[str, Any]) -> Iterator[str]:
    """The summary as lines for a terminal."""
    yield (f"step {summary['step']:,} of {summary['total_steps']:,} (epoch {summary['epoch']}), "
           f"{len(summary['ranks'])} rank(s), {summary['logged_lines']:,} loss lines")
    yield from _describe_restarts(summary["restarts"])
    if summary["network_parameters"]:
        yield f"trainable parameters by the log: {summary['network_parameters']:,}"
    finite = summary["last_finite_step"] or 0
    since = "" if finite == summary["step"] else f" (not a number after step {finite:,})"
    yield f"loss {summary['first_loss']:.4f} at first, {summary['last_loss']:.4f} at the end{since}"
    if summary["loss_ranks"] != summary["ranks"]:
        ranks = ", ".join(map(str, summary["loss_ranks"]))
        yield f"pipeline stages: the loss is that of rank(s) {ranks}; the other ranks compute none"
    for entry in summary["valid_loss"]:
        best = " (best)" if entry["step"] == summary["best_valid_step"] else ""
        yield f"validation loss {entry['loss']:.4f} after step {entry['step']:,}{best}"
    tokens = summary["useful_tokens_per_second"]
    yield (f"step time {summary['step_ms']:g} ms, useful tokens/s "
           + (f"{tokens:,.1f}" if tokens else "unknown (no run.json with token counts)"))
    yield (f"overflow at {summary['overflow_steps']:,} of {summary['logged_steps']:,} logged steps, "
           f"loss scale {summary['loss_scale'] or 'unavailable'}")
    seconds = int(summary["eta_seconds"])
    yield f"to go: {seconds // 3600} h {seconds % 3600 // 60} min" if seconds else "complete"
    yield from (f"warning: {warning.text()}" for warning in summary["warnings"])


def _describe_restarts(restarts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each of the last few steps the run started again at."""
    by_step: dict[int, list[Mapping[str, Any]]] = {}
    for restart in restarts:
        by_step.setdefault(restart["step"], []).append(restart)
    earlier = max(0, len(by_step) - _RESTARTS_SHOWN)
    if earlier:
        yield f"started again at {earlier:,} other step(s), see summary.json"
    for step, found in list(by_step.items())[earlier:]:
        ranks, lines = {one["rank"] for one in found}, sum(one["superseded_lines"] for one in found)
        yield f"{len(ranks)} rank(s) started again at step {step:,}; {lines:,} earlier lines superseded"


def describe_answers(lines: Sequence[StepAnswers]) -> Iterator[str]:
    """A few questions with the answers of every step, and what the judged ones count."""
    for line in lines:
        if verdict := line.verdict():
            yield f"step {line.step:,}: {verdict}"
    yield (f"answers cost {sum(line.seconds for line in lines):.1f} s in {len(lines)} round(s) of "
           f"{len(lines[-1].answers)}")
    found = answers_of(lines)
    for question in dict.fromkeys(answer.question for answer in examples(lines[-1].answers)):
        yield f"? {question}"
        yield from (f"  step {step:>6,}: {answer}" for step, answer in found[question].items())


def main(argv: list[str] | None = None) -> int:
    """Reads the logs of the command line's run."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_DIR", help="output_dir of a run, or one log file")
    parser.add_argument("--output", metavar="D",
                        help=f"folder for csv and figures (default: RUN_DIR/{OUTPUT_FOLDER})")
    parser.add_argument("--overwrite", action="store_true",
                        help=f"replace an earlier analysis in --output; RUN_DIR/{OUTPUT_FOLDER} is always "
                        "brought up to date")
    arguments = parser.parse_args(argv)
    if not Path(arguments.run).exists():
        raise ToolkitError(f"{arguments.run} does not exist; give the output_dir of a run, or a log file")
    if arguments.output is None and Path(arguments.run).is_file():
        raise ToolkitError(f"{arguments.run} is one file: say with --output where csv and figures shall go")
    output = Path(arguments.output or Path(arguments.run) / OUTPUT_FOLDER)
    summary = analyse(arguments.run, output, arguments.overwrite or arguments.output is None)
    print("\n".join(describe(summary)))
    if answers := read_answers(Path(arguments.run) / ANSWERS):
        print("\n".join(describe_answers(answers)))
    if not summary["valid_loss"]:
        print("no evaluation in the logs: valid_loss.png not drawn")
    print(f"written: {output}")
    return 0


if __name__ == "__main__":
    run_main(main)
