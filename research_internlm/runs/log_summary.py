"""Tables, curves and a summary of a run's logs."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research_internlm.recipes.recipe import load_yaml
from research_internlm.recipes.schedule import whole_number
from research_internlm.runs.answers_file import read_answers, side_by_side
from research_internlm.runs.log_warnings import RECENT, warnings
from research_internlm.runs.run_info import RunInfo, read_run_info
from research_internlm.runs.train_log_file import read_training
from research_internlm.runs.worker_logs import RankLog, evaluations, steps_of_all
from research_internlm.shared.files import publish, write_json, write_text
from research_internlm.shared.result_set import result_set
from research_internlm.shared.run_layout import ANSWERS, RESOLVED_CONFIG, RUN_FACTS
from research_internlm.shared.staging import staging

CSV_COLUMNS = ("step", "epoch", "loss", "ranks", "learning_rate", "step_ms", "overflow", "loss_scale",
               "global_norm", "valid_loss", "time")
OUTPUT_FOLDER = "analysis"
_CSV, _TRAIN_LOSS, _VALID_LOSS, _SUMMARY = "train_log.csv", "train_loss.png", "valid_loss.png", "summary.json"
_ANSWERS_CSV = "answers.csv"


def table(logs: Mapping[int, RankLog]) -> list[dict[str, Any]]:
    """One row a logged step over all ranks.

    Returns:
        Rows with the keys of CSV_COLUMNS: loss and valid_loss are means over the ranks that logged them
        (each sees its own shard; of a pipeline only the last stage has one), step_ms is the slowest rank's,
        overflow any rank's.
    """
    valid = evaluations(logs)
    rows = []
    for step, records in steps_of_all(dict(logs)):
        first = records[0]
        losses = [log.records[step].loss for log in logs.values()
                  if log.has_loss is not False and step in log.records]
        if not losses:  # the last pipeline stage has not logged this step yet
            continue
        rows.append({
            "step": step, "epoch": first.epoch,
            "loss": statistics.fmean(losses), "ranks": len(records),
            "learning_rate": first.learning_rate, "step_ms": max(record.step_ms for record in records),
            "overflow": any(record.overflow for record in records), "loss_scale": first.loss_scale,
            "global_norm": first.global_norm, "valid_loss": valid.get(step),
            "time": first.time.isoformat() if first.time else None,
        })
    return rows


def useful_tokens_per_step(run: Path) -> float | None:
    """Mean number of unpadded tokens one optimizer step takes in, from the data's manifest.

    Args:
        run: The run folder.

    Returns:
        Tokens over all workers, or None where the run does not say.
    """
    run_info, batch_size = _run_info(run), _batch_size(run)
    data = run_info.data.get("train_dataset") if run_info else None
    if not data or not batch_size:
        return None
    return data.tokens.total / data.counts.out * batch_size * run_info.workers


def summarize(logs: Mapping[int, RankLog], tokens_per_step: float | None = None,
              workers: int | None = None) -> dict[str, Any]:
    """The figures of a run, for people and for the report.

    Args:
        logs: From read_training.
        tokens_per_step: Useful tokens of one step, or None.
        workers: Number of workers that were started, None to go by the logs, 0 where the logs are only
            some of them.

    Returns:
        Mapping; times in milliseconds or seconds as the keys say; `warnings` are LogWarnings. A loss that is
        no number stays nan (`json_ready` is for files); last_loss is the mean of the last ones that are.
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
        "ranks": sorted(logs),
        "loss_ranks": sorted(rank for rank, log in logs.items() if log.has_loss is not False),
        "files": [file.name for log in logs.values() for file in log.files],
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
    with staging(path) as folder:
        # No creation date inside: the same log gives the same bytes.
        figure.savefig(folder / "figure.png", dpi=120, metadata={"Software": None})
        publish(folder / "figure.png", Path(path))


def _moving_mean(losses: Sequence[float], window: int) -> list[float]:
    """Mean of each loss and those before it in the window, without those that are not a number."""
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
    with result_set(output / _SUMMARY, overwrite, {output / _SUMMARY: None}) as results:
        logs = read_training(run)
        # One file says nothing of the ranks beside it.
        run_info = _run_info(run)
        workers = run_info.workers if run_info else 0 if run.is_file() else None
        summary = summarize(logs, useful_tokens_per_step(run), workers)
        rows = table(logs)
        write_csv(rows, results.folder / _CSV)
        draw({row["step"]: row["loss"] for row in rows}, "Training loss (mean over ranks)",
             results.folder / _TRAIN_LOSS)
        valid = evaluations(logs)
        if valid:
            draw(valid, "Validation loss (mean over ranks)", results.folder / _VALID_LOSS)
        write_json(results.folder / _SUMMARY, json_ready(
            {**summary, "warnings": [warning.text() for warning in summary["warnings"]]}))
        if answers := read_answers(run / ANSWERS):
            write_text(results.folder / _ANSWERS_CSV, side_by_side(answers))
        results.publish(_CSV, _TRAIN_LOSS, _VALID_LOSS, _ANSWERS_CSV, _SUMMARY)
    return summary


def _run_info(run: Path) -> RunInfo | None:
    return read_run_info(run) if (run / RUN_FACTS).is_file() else None


def _batch_size(run: Path) -> int | None:
    resolved = run / RESOLVED_CONFIG
    recipe = load_yaml(resolved) if resolved.is_file() else {}
    runner = recipe.get("runner_config")
    if not isinstance(runner, Mapping) or runner.get("batch_size") is None:
        return None
    return whole_number(recipe, "runner_config.batch_size")
