"""Entry point: what a run's logs say, while it runs or long after.

    python research_internlm/contest/logs.py output/run1
    python research_internlm/contest/logs.py worker_0.log --output analysis

Writes train_log.csv, train_loss.png, valid_loss.png and summary.json, prints a summary, and warns of a
loss that stands still, of NaN and of a rank that lags.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from research_internlm.contest.log_warnings import RECENT, warnings
from research_internlm.contest.worker_logs import RankLog, evaluations, read_run, steps_of_all
from research_internlm.errors import ToolkitError, run_main
from research_internlm.files import publish, read_json, require_absent, staging, write_json, write_text
from research_internlm.recipe import RESOLVED_CONFIG, RUN_FACTS, load_yaml

CSV_COLUMNS = ("step", "epoch", "loss", "ranks", "learning_rate", "step_ms", "overflow", "loss_scale",
               "global_norm", "valid_loss", "time")
OUTPUT_FOLDER = "analysis"
_RESTARTS_SHOWN = 5


def table(logs: Mapping[int, RankLog]) -> list[dict[str, Any]]:
    """One row a logged step over all ranks.

    Returns:
        Rows with the keys of CSV_COLUMNS: loss and valid_loss are means over the ranks that logged them
        (each sees its own shard), step_ms is the slowest rank's, overflow any rank's.
    """
    valid = evaluations(logs)
    rows = []
    for step, records in steps_of_all(dict(logs)):
        first = records[0]
        rows.append({
            "step": step, "epoch": first.epoch,
            "loss": statistics.fmean(record.loss for record in records), "ranks": len(records),
            "learning_rate": first.learning_rate, "step_ms": max(record.step_ms for record in records),
            "overflow": any(record.overflow for record in records), "loss_scale": first.loss_scale,
            "global_norm": first.global_norm, "valid_loss": valid.get(step),
            "time": first.time.isoformat() if first.time else None,
        })
    return rows


def useful_tokens_per_step(facts: Mapping[str, Any] | None, batch_size: int | None) -> float | None:
    """Mean number of unpadded tokens one optimizer step takes in, from the data's manifest.

    Args:
        facts: run.json of the run.
        batch_size: Rows a card and step.

    Returns:
        Tokens over all workers, or None where the run does not say.
    """
    data = (facts or {}).get("data", {}).get("train_dataset")
    if not data or not data.get("tokens") or not batch_size:
        return None
    return data["tokens"]["total"] / data["counts"]["out"] * batch_size * facts["workers"]


def summarize(logs: Mapping[int, RankLog], tokens_per_step: float | None = None,
              workers: int | None = None) -> dict[str, Any]:
    """The figures of a run, for people and for the report.

    Args:
        logs: From read_run.
        tokens_per_step: Useful tokens of one step, or None.
        workers: Number of workers that were started, None to go by the logs, 0 where the logs are only
            some of them.

    Returns:
        Mapping; times in milliseconds or seconds as the keys say. A loss that is no number stays nan
        (`json_ready` is for files); last_loss is the mean of the last ones that are.
    """
    rows = table(logs)
    losses = [row["loss"] for row in rows]
    last = max((log.records[max(log.records)] for log in logs.values() if log.records),
               key=lambda record: record.step)
    step_ms = statistics.median(row["step_ms"] for row in rows[-RECENT:])
    valid = evaluations(logs)
    best = min((step for step, loss in valid.items() if math.isfinite(loss)), key=valid.get, default=None)
    finite = [loss for loss in losses if math.isfinite(loss)]
    return {
        "ranks": sorted(logs), "files": [file.name for log in logs.values() for file in log.files],
        "step": last.step, "total_steps": last.total_steps, "epoch": last.epoch,
        "logged_lines": sum(len(log.records) for log in logs.values()),
        "unreadable_lines": sum(log.unreadable for log in logs.values()),
        "restarts": [{"rank": log.rank, "step": step, "superseded_lines": count}
                     for log in logs.values() for step, count in log.restarts],
        "first_loss": losses[0], "last_loss": statistics.fmean(finite[-RECENT:]) if finite else math.nan,
        "last_finite_step": max((row["step"] for row in rows if math.isfinite(row["loss"])), default=None),
        "lowest_loss": min(finite, default=None),
        "valid_loss": [{"step": step, "loss": loss} for step, loss in valid.items()],
        "best_valid_step": best, "step_ms": step_ms,
        "useful_tokens_per_second": tokens_per_step * 1000 / step_ms if tokens_per_step and step_ms else None,
        "overflow_steps": sum(row["overflow"] for row in rows), "logged_steps": len(rows),
        "loss_scale": last.loss_scale, "learning_rate": last.learning_rate,
        "eta_seconds": (last.total_steps - last.step) * step_ms / 1000,
        "network_parameters": next((log.parameters for log in logs.values() if log.parameters), None),
        "warnings": list(warnings(logs, rows, workers)),
    }


def write_csv(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Writes the table, one row a step."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def draw(points: Mapping[int, float], title: str, path: str | Path) -> None:
    """Draws a loss over steps; with many points the raw line is pale under its moving mean."""
    from matplotlib.figure import Figure

    steps, losses = list(points), list(points.values())
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    window = max(1, len(losses) // 100)
    marker = "o" if len(losses) <= 50 else None
    axes.plot(steps, losses, marker=marker, color="tab:blue", alpha=0.3 if window > 1 else 1.0, label="loss")
    if window > 1:
        axes.plot(steps, _moving_mean(losses, window), color="tab:blue",
                  label=f"mean of {window} logged steps")
        axes.legend()
    axes.set(title=title, xlabel="optimizer step", ylabel="loss (nats a token)")
    axes.grid(alpha=0.3)
    with staging(Path(path).parent) as folder:
        # No creation date inside: the same log gives the same bytes.
        figure.savefig(folder / "figure.png", dpi=120, metadata={"Software": None})
        publish(folder / "figure.png", Path(path))


def _moving_mean(losses: Sequence[float], window: int) -> list[float]:
    """Mean of each loss and those before it in the window, without those that are no number."""
    import numpy as np

    finite = np.isfinite(losses)
    sums, counts = (np.concatenate([np.zeros(window), np.cumsum(values)])
                    for values in (np.where(finite, losses, 0.0), finite))
    with np.errstate(invalid="ignore"):  # 0 / 0 is the nan it should be
        return ((sums[window:] - sums[:-window]) / (counts[window:] - counts[:-window])).tolist()


def json_ready(value: Any) -> Any:
    """The same with null for numbers that JSON has not: nan and the infinities."""
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def analyse(run: str | Path, output: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Reads a run's logs and writes csv, figures and summary.json.

    Returns:
        The summary.
    """
    run, output = Path(run), Path(output)
    require_absent(output / "summary.json", overwrite)
    logs = read_run(run)
    facts = read_json(run / RUN_FACTS, "run facts") if (run / RUN_FACTS).is_file() else None
    # One file says nothing of the ranks beside it.
    workers = (facts or {}).get("workers", 0 if run.is_file() else None)
    summary = summarize(logs, useful_tokens_per_step(facts, _batch_size(run)), workers)
    rows = table(logs)
    write_csv(rows, output / "train_log.csv")
    draw({row["step"]: row["loss"] for row in rows}, "Training loss (mean over ranks)",
         output / "train_loss.png")
    valid = evaluations(logs)
    (output / "valid_loss.png").unlink(missing_ok=True)  # of an earlier analysis
    if valid:
        draw(valid, "Validation loss (mean over ranks)", output / "valid_loss.png")
    write_json(output / "summary.json", json_ready(summary))
    return summary


def _batch_size(run: Path) -> int | None:
    resolved = run / RESOLVED_CONFIG
    recipe = load_yaml(resolved) if resolved.is_file() else {}
    return (recipe.get("runner_config") or {}).get("batch_size")


def describe(summary: Mapping[str, Any]) -> Iterator[str]:
    """The summary as lines for a terminal."""
    yield (f"step {summary['step']:,} of {summary['total_steps']:,} (epoch {summary['epoch']}), "
           f"{len(summary['ranks'])} rank(s), {summary['logged_lines']:,} loss lines")
    yield from _describe_restarts(summary["restarts"])
    if summary["network_parameters"]:
        yield f"trainable parameters by the log: {summary['network_parameters']:,}"
    finite = summary["last_finite_step"] or 0
    since = "" if finite == summary["step"] else f" up to step {finite:,}, and no number since"
    yield f"loss {summary['first_loss']:.4f} at first, {summary['last_loss']:.4f} lately{since}"
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
    yield from (f"warning: {text}" for text in summary["warnings"])


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
    if not summary["valid_loss"]:
        print("no evaluation in the logs: valid_loss.png not drawn")
    print(f"written: {output}")
    return 0


if __name__ == "__main__":
    run_main(main)
