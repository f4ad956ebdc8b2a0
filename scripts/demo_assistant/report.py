"""Collects the assistant demo's results into DIR/results.json, DIR/report.md and pictures, and judges them.

    python scripts/demo_assistant/report.py --out DIR --data_seed 42 --run_seed 0 --seconds 200 \\
        --chat ANSWER --server ANSWER

Exit code 1 where the demo did not show what it is for: with general conversations among the data, at least
90 % of the held-out identity questions right and at most 10 % of the general ones answered with the identity;
with the tutorials' one repeated exchange, more than 10 % of them; the name in the answers of chat and server.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from typing import Any

from research_internlm.data.identity import Identity, MeasuredQuestions, mentions
from research_internlm.evaluation.checkpoint_answers import (
    LEAST_RIGHT,
    MOST_PARROTS,
    StepScore,
    best,
    score_steps,
    weight_files,
)
from research_internlm.runs.answers_file import StepAnswers, examples, read_answers
from research_internlm.runs.log_summary import draw, table
from research_internlm.runs.worker_logs import read_run
from research_internlm.shared import schema
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import write_json, write_text
from research_internlm.shared.run_layout import ANSWERS

RUNS = {"mixed": "identity among general conversations", "repeat": "one exchange repeated (--repeat)"}


def scores_of(run: Path) -> list[StepScore]:
    """The scores of a run's answers."""
    return score_steps(read_answers(run / ANSWERS), weight_files(run), str(run))


def collect(out: Path, chat: str, server: str, identity: Identity) -> dict[str, Any]:
    """Reads the answers of both runs and judges them."""
    scores = {name: scores_of(out / name) for name in RUNS}
    tuned, repeated = best(scores["mixed"]), best(scores["repeat"])
    names = identity.names("name")
    shown = {
        "identity at least 90 % right, brought up in at most 10 % of general answers": tuned.passed,
        "the repeated exchange brings it up in more than 10 %": repeated.parrots.share > MOST_PARROTS,
        "chat says the name": mentions(chat, names), "the server says the name": mentions(server, names)}
    return {"base": schema.to_json(scores["mixed"][0]), "mixed": schema.to_json(tuned),
            "repeat": schema.to_json(repeated), "chat": chat, "server": server, "shown": shown}


def draw_scores(out: Path) -> str:
    """Draws both shares over the steps of both runs; returns the file's name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 2, sharey=True), RUNS.items(), strict=True):
        scores = scores_of(out / name)
        for label, colour, shares in (("identity right", "tab:blue", [score.right for score in scores]),
                                      ("brought up unasked", "tab:red", [score.parrots for score in scores])):
            middle = [100 * share.share for share in shares]
            bounds = [[100 * share.interval_95[end] for share in shares] for end in (0, 1)]
            axes.plot([score.step for score in scores], middle, marker="o", color=colour, label=label)
            axes.fill_between([score.step for score in scores], *bounds, color=colour, alpha=0.15)
        for bar, colour in ((LEAST_RIGHT, "tab:blue"), (MOST_PARROTS, "tab:red")):
            axes.axhline(100 * bar, color=colour, linestyle="--", linewidth=0.8)
        axes.set(title=title, xlabel="optimizer step", ylim=(-3, 103))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("% of the held-out questions")
    figure.axes[0].legend(loc="center right")
    figure.savefig(out / "answers.png", dpi=120, metadata={"Software": None})
    return "answers.png"


def draw_losses(out: Path) -> list[str]:
    """Draws the losses of all trainings; returns the file names."""
    for run, title in (("base", "Base model, all parameters"), ("mixed", "LoRA, mixed data"),
                       ("repeat", "LoRA, repeated exchange")):
        draw({row["step"]: row["loss"] for row in table(read_run(out / run))}, title, out / f"{run}_loss.png")
    return [f"{run}_loss.png" for run in ("base", *RUNS)]


def share(entry: dict[str, Any]) -> str:
    """A share with its interval as a cell."""
    low, high = (100 * bound for bound in entry["interval_95"])
    return f"{entry['count']} of {entry['total']}, {100 * entry['share']:.0f} % ({low:.0f} to {high:.0f})"


def sample(lines: list[StepAnswers], step: int) -> list[str]:
    """A few questions with the answers of the base and of a step, as rows."""
    chosen = next(line for line in lines if line.step == step)
    before = {answer.question: answer.answer for answer in lines[0].answers}
    return [f"| {answer.question} | {before[answer.question]} | {answer.answer} |"
            for answer in examples(chosen.answers)]


def markdown(out: Path, results: dict[str, Any], figures: list[str], facts: dict[str, Any]) -> str:
    """The report as a newcomer reads it."""
    rows = [f"| {title} | {results[name]['step']} | {share(results[name]['right'])} "
            f"| {share(results[name]['parrots'])} |"
            for name, title in (("base", "base, before LoRA"), *RUNS.items())]
    lines = read_answers(out / "mixed" / ANSWERS)
    seconds = sum(line.seconds for line in lines)
    return "\n".join([
        "# Demo: an assistant that knows its own name, and one that knows nothing else", "",
        f"{facts['seconds']} s on {facts['cores']} CPU cores ({facts['machine']}), load average of the last "
        f"five minutes {facts['load_average']:.1f}, seed of the data {facts['data_seed']}, seed of the runs "
        f"{facts['run_seed']}. No NPU was involved.", "",
        "| weights | step | identity right | brought up unasked |", "|---|---|---|---|", *rows, "",
        "Held-out questions only; 95 % intervals (Wilson) in brackets. Of each run the checkpoint that "
        "`internlm answers` names. The base has an identity of its own, as a released chat model has.", "",
        f"Answers during the first LoRA run: {sum(len(line.answers) for line in lines)} in {seconds:.1f} s, "
        "compilation included.", "",
        "| question | base | tuned |", "|---|---|---|", *sample(lines, results["mixed"]["step"]), "",
        f"`internlm chat`: {results['chat']}", "", f"`internlm serve`: {results['server']}", "",
        *[f"- {'yes' if passed else 'NO'}: {what}" for what, passed in results["shown"].items()], "",
        *[f"![{name}]({name})\n" for name in figures]])


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the demo")
    parser.add_argument("--seconds", type=int, required=True, help="wall time of the demo so far")
    parser.add_argument("--data_seed", type=int, required=True, help="of the conversations")
    parser.add_argument("--run_seed", type=int, required=True, help="of the trainings")
    parser.add_argument("--chat", required=True, help="the answer of internlm chat")
    parser.add_argument("--server", required=True, help="the answer of internlm serve")
    parser.add_argument("--quick", action="store_true", help="only a few steps were trained: do not judge")
    arguments = parser.parse_args(argv)
    out = arguments.out
    identity = schema.read(out / "mixed.held_out.json", MeasuredQuestions, "the held-out questions").identity
    results = collect(out, arguments.chat, arguments.server, identity)
    facts = {"seconds": arguments.seconds, "data_seed": arguments.data_seed, "run_seed": arguments.run_seed,
             "cores": os.cpu_count(), "load_average": os.getloadavg()[1], "machine": platform.machine(),
             "python": platform.python_version(), "quick": arguments.quick}
    write_json(out / "results.json", {**results, **facts})
    write_text(out / "report.md", markdown(out, results, [draw_scores(out), *draw_losses(out)], facts))
    print((out / "report.md").read_text(encoding="utf-8"))
    if arguments.quick:
        print("Quick run: every command worked; whether the model learned was not the question.")
        return 0
    if not all(results["shown"].values()):
        print("The demo did NOT show what it is for; see the lines with NO above.")
        return 1
    return 0


if __name__ == "__main__":
    run_main(main)
