"""Pictures of a detection result: confusion matrix, ROC curve and reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research_internlm.data.detection import CLASS_NAMES
from research_internlm.evaluation.classification import roc_curve


def draw(result: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes one png with the confusion matrix and, by likelihood, ROC and reliability."""
    from matplotlib.figure import Figure

    panels = 3 if result["roc_auc"] else 2
    figure = Figure(figsize=(4.5 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels)
    _confusion(axes[0], result["unanswered_wrong"]["confusion"])
    _roc(axes[1], predictions)
    if panels == 3:
        _reliability(axes[2], result["calibration"])
    # No creation date inside: the same result gives the same bytes.
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _confusion(axes: Any, counts: Mapping[str, int]) -> None:
    table = [[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]]
    axes.imshow(table, cmap="Blues")
    most = max(map(max, table))
    for row, cells in enumerate(table):
        for column, count in enumerate(cells):
            axes.text(column, row, str(count), ha="center", va="center",
                      color="white" if count > most / 2 else "black")
    axes.set(title="Confusion (unanswered wrong)", xlabel="called", ylabel="is", xticks=(0, 1), yticks=(0, 1),
             xticklabels=CLASS_NAMES, yticklabels=CLASS_NAMES)


def _roc(axes: Any, predictions: Sequence[Mapping[str, Any]]) -> None:
    for key, title in (("probability", "model"), ("bag_of_words", "bag of words")):
        asked = [(row["label"], row[key]) for row in predictions if row[key] is not None]
        if asked:
            axes.plot(*roc_curve(*zip(*asked, strict=True)), label=title)
    axes.plot((0, 1), (0, 1), color="grey", linestyle=":")
    axes.set(title="ROC", xlabel="human texts called AI", ylabel="AI texts called AI")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)


def _reliability(axes: Any, calibration: Mapping[str, Any]) -> None:
    bins = calibration["bins"]
    axes.plot((0, 1), (0, 1), color="grey", linestyle=":")
    axes.plot([one["mean_probability"] for one in bins], [one["share_of_class_1"] for one in bins],
              marker="o")
    axes.set(title=f"Reliability (ECE {calibration['ece']:.3f})", xlabel="probability of AI",
             ylabel="share that is AI", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
