"""Collects the demo's results into DIR/results.json and DIR/report.md, and judges them.

    python scripts/demo/report.py --out DIR --data_seed 42 --run_seed 0 --seconds 200

Exit code 1 where the demo did not show what it is for: accuracy on reordered questions up by at least 30
points, and the SQuAD gate held.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from typing import Any

from research_internlm.contest.scoring import gate_against_base, squad_pair
from research_internlm.runs.log_summary import draw, table
from research_internlm.runs.result_files import read_result
from research_internlm.runs.worker_logs import evaluations, read_run
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import write_json, write_text

LEAST_RISE_POINTS = 30.0


def collect(out: Path) -> dict[str, Any]:
    """Reads the six evaluations and judges them.

    Returns:
        Accuracies in percent, SQuAD F1 and EM in percent (contest metric), the rise in points, the gate.
    """
    results: dict[str, Any] = {}
    pairs = {}
    for name in ("base", "tuned"):
        squad = read_result(out / f"{name}_squad.json")
        pairs[name] = squad_pair(squad)
        results[name] = {"squad_f1": pairs[name][0], "squad_em": pairs[name][1],
                         "squad_official_f1": squad.official.f1,
                         "squad_official_em": squad.official.em}
        for test in ("reordered", "held_out"):
            overall = read_result(out / f"{name}_{test}.json").overall
            results[name][test] = {"accuracy_percent": 100 * overall.accuracy, "total": overall.total,
                                   "unmatched": overall.unmatched,
                                   "interval_95_percent": [100 * x for x in overall.interval_95]}
    gate = gate_against_base(pairs["tuned"], pairs["base"])
    rise = (results["tuned"]["reordered"]["accuracy_percent"]
            - results["base"]["reordered"]["accuracy_percent"])
    return {**results, "rise_points": rise, "least_rise_points": LEAST_RISE_POINTS, "gate": str(gate),
            "gate_passed": gate.passed, "shown": rise >= LEAST_RISE_POINTS and gate.passed}


def draw_losses(out: Path) -> list[str]:
    """Draws the loss curves of both trainings; returns the file names."""
    names = []
    for run, title in (("base", "Base model, all parameters"), ("lora", "LoRA, two workers")):
        logs = read_run(out / run)
        draw({row["step"]: row["loss"] for row in table(logs)}, title, out / f"{run}_loss.png")
        names.append(f"{run}_loss.png")
        if valid := evaluations(logs):
            draw(valid, f"{title}: validation", out / f"{run}_valid_loss.png")
            names.append(f"{run}_valid_loss.png")
    return names


def markdown(results: dict[str, Any], figures: list[str], facts: dict[str, Any]) -> str:
    """The report as a newcomer reads it: one table, what it means, the curves."""
    def cell(name: str, test: str) -> str:
        entry = results[name][test]
        low, high = entry["interval_95_percent"]
        return f"{entry['accuracy_percent']:.1f} % ({low:.0f} to {high:.0f})"

    rows = [
        f"| MMLU, reordered training questions ({results['base']['reordered']['total']}) "
        f"| {cell('base', 'reordered')} | {cell('tuned', 'reordered')} |",
        f"| MMLU, held-out questions ({results['base']['held_out']['total']}) "
        f"| {cell('base', 'held_out')} | {cell('tuned', 'held_out')} |",
        f"| SQuAD F1 / EM, contest metric | {results['base']['squad_f1']:.1f} / "
        f"{results['base']['squad_em']:.1f} | {results['tuned']['squad_f1']:.1f} / "
        f"{results['tuned']['squad_em']:.1f} |",
        f"| SQuAD F1 / EM, official metric | {results['base']['squad_official_f1']:.1f} / "
        f"{results['base']['squad_official_em']:.1f} | {results['tuned']['squad_official_f1']:.1f} / "
        f"{results['tuned']['squad_official_em']:.1f} |",
    ]
    return "\n".join([
        "# Demo: a tiny InternLM before and after LoRA", "",
        f"{facts['seconds']} s on {facts['cores']} CPU cores ({facts['machine']}), load average of the last "
        f"five minutes {facts['load_average']:.1f}, seed of the data {facts['data_seed']}, seed of the runs "
        f"{facts['run_seed']}. No NPU was involved.", "",
        "| test | base | tuned |", "|---|---|---|", *rows, "",
        "Accuracy is read from the generated answer, with a 95 % interval in brackets. The reordered test "
        "asks the training questions with their options in another order: it measures memory. The held-out "
        "test asks questions that training never saw. Their difference is the lesson: report both.", "",
        f"- {results['gate']}",
        f"- Accuracy on reordered questions rose by {results['rise_points']:.1f} points (at least "
        f"{LEAST_RISE_POINTS:.0f} wanted).", "",
        *[f"![{name}]({name})\n" for name in figures]])


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the demo")
    parser.add_argument("--data_seed", type=int, required=True, help="of questions, splits and orderings")
    parser.add_argument("--run_seed", type=int, required=True, help="of both trainings")
    parser.add_argument("--seconds", type=int, required=True, help="wall time of the demo so far")
    parser.add_argument("--quick", action="store_true", help="only a few steps were trained: do not judge")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    results = collect(out)
    facts = {"data_seed": arguments.data_seed, "run_seed": arguments.run_seed, "seconds": arguments.seconds,
             "cores": os.cpu_count(), "load_average": os.getloadavg()[1], "machine": platform.machine(),
             "python": platform.python_version(), "quick": arguments.quick}
    write_json(out / "results.json", {**results, **facts})
    write_text(out / "report.md", markdown(results, draw_losses(out), facts))
    print((out / "report.md").read_text(encoding="utf-8"))
    if arguments.quick:
        print("Quick run: every command worked; whether the model learned was not the question.")
        return 0
    if not results["shown"]:
        print("The demo did NOT show what it is for; see the last two lines of the list above.")
        return 1
    return 0


if __name__ == "__main__":
    run_main(main)
