"""What the losses of the audit's labels mean: means by kind, which stay high, which end would cost less."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from research_internlm.data.label_categories import CATEGORIES, END_CATEGORIES, end_ids, label_categories
from research_internlm.data.tokens import IGNORE_ID, SpecialTokens
from research_internlm.shared.files import publish
from research_internlm.shared.staging import staging

IMPROVED = 0.9  # of the base's loss: a kind above it has not been learnt
LEARNT = 0.1  # nats: a kind below it has been, whatever the base's loss

Row = tuple[np.ndarray, np.ndarray]


def row_kinds(labels: np.ndarray, processor: sentencepiece.SentencePieceProcessor, special: SpecialTokens
              ) -> list[str]:
    """Kinds of a row's labels, in order."""
    return label_categories(labels[labels != IGNORE_ID].tolist(), processor, special)


def summarize(kinds: Sequence[Sequence[str]], losses: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Mean loss and share by kind.

    Args:
        kinds: Of each row, the kinds of its labels.
        losses: Of each row, its labels' losses in nats.

    Returns:
        Kind -> `count`, `mean` (nats a token) and `share` (of the sum over all labels).
    """
    names, values = np.array([kind for row in kinds for kind in row]), np.concatenate(losses)
    total = float(values.sum())
    return {kind: {"count": int(found.sum()), "mean": float(values[found].mean()),
                   "share": float(values[found].sum()) / total if total else 0.0}
            for kind in CATEGORIES if (found := names == kind).any()}


def end_costs(ends: Sequence[np.ndarray], kinds: Sequence[Sequence[str]], special: SpecialTokens
              ) -> dict[str, float]:
    """Mean cost of each end marker where an answer's own one stands; empty where no answer has one."""
    places = [next((place for place, kind in enumerate(row) if kind in END_CATEGORIES), None)
              for row in kinds]
    at_end = [row[place] for row, place in zip(ends, places, strict=True) if place is not None]
    return dict(zip(end_ids(special), map(float, np.mean(at_end, axis=0)), strict=True)) if at_end else {}


def own_end(rows: Sequence[Row], kinds: Sequence[Sequence[str]], special: SpecialTokens
            ) -> tuple[str | None, str | None]:
    """How the rows' answers end: name of the end marker, and kind of its first token."""
    for (_, labels), row in zip(rows, kinds, strict=True):
        for token, kind in zip(labels[labels != IGNORE_ID].tolist(), row, strict=True):
            if kind in END_CATEGORIES:
                return next(name for name, first in end_ids(special).items() if first == token), kind
    return None, None


def high_loss_labels(tuned: Mapping[str, Mapping[str, float]], base: Mapping[str, Mapping[str, float]]
                     ) -> list[str]:
    """Kinds whose loss is not below 90 % of the base's, nor so low that there is nothing to learn.

    That includes a kind that got worse from a low base, and a loss that is not a number.
    """
    return [kind for kind, loss in tuned.items()
            if not loss["mean"] <= max(LEARNT, IMPROVED * base[kind]["mean"])]


def warnings(result: Mapping[str, Any]) -> list[str]:
    """What the numbers mean for the next run, one sentence a kind."""
    kinds = result["tuned"]["kinds"]
    broken = [kind for kind, loss in kinds.items() if not math.isfinite(loss["mean"])]
    texts = []
    if broken:
        texts.append(f"the loss of {', '.join(broken)} is not a number: the weights hold nan or overflow; "
                     "audit an earlier checkpoint")
    for kind in result["unlearnt"]:
        if kind in broken:
            continue
        tuned, base = kinds[kind], result["base"]["kinds"][kind]
        verdict = "got worse" if tuned["mean"] > base["mean"] else "did not improve enough"
        text = (f"{kind} {verdict}: {tuned['mean']:.3f} nats, base {base['mean']:.3f}; it is "
                f"{tuned['share']:.0%} of the whole loss")
        texts.append(text + (_alternatives(result) if kind == result["end_kind"] else ""))
    return texts


def _alternatives(result: Mapping[str, Any]) -> str:
    """What cheaper end markers there are; their costs were taken where the answers' own one stands."""
    costs = result["tuned"]["end_markers"]
    own = costs[result["end_marker"]]
    cheaper = [f"--end_marker {name} would cost {loss:.3f} nats"
               for name, loss in costs.items() if loss < own]
    return "; at the end of an answer " + (", ".join(cheaper) or "no other end marker costs less")


def table(result: Mapping[str, Any]) -> str:
    """The result for people: a line a kind."""
    base = result.get("base", {}).get("kinds", {})
    lines = [f"{'label':<16}{'tokens':>9}{'loss, nats':>12}{'base':>9}{'share':>8}"]
    for kind, loss in result["tuned"]["kinds"].items():
        before = f"{base[kind]['mean']:.3f}" if kind in base else ""
        lines.append(f"{kind:<16}{loss['count']:>9,}{loss['mean']:>12.3f}{before:>9}{loss['share']:>8.0%}")
    total = sum(loss["count"] for loss in result["tuned"]["kinds"].values())
    before = f"{result['base']['mean']:.3f}" if base else ""
    lines.append(f"{'all':<16}{total:>9,}{result['tuned']['mean']:>12.3f}{before:>9}")
    return "\n".join([*lines, *(f"warning: {text}" for text in warnings(result))])


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Writes the bar chart: loss by kind, tuned beside base."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    names = [name for name in ("base", "tuned") if name in result]
    kinds = list(result["tuned"]["kinds"])
    for number, name in enumerate(names):
        axes.bar(np.arange(len(kinds)) + (number - (len(names) - 1) / 2) * 0.4,
                 [result[name]["kinds"][kind]["mean"] for kind in kinds], 0.4, label=name)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_ylabel("mean loss, nats a token")
    axes.legend()
    figure.tight_layout()
    with staging(path) as folder:
        figure.savefig(folder / path.name, metadata={"Software": None})
        publish(folder / path.name, path)
    plt.close(figure)
