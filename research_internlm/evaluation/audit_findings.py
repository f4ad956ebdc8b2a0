"""What the losses of the audit's labels say: means by kind, what is not learnt, which end would cost less."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sentencepiece

from research_internlm.data.label_categories import CATEGORIES, END_CATEGORIES, end_ids, label_categories
from research_internlm.data.tokens import IGNORE_ID, SpecialTokens

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


def unlearnt(tuned: Mapping[str, Mapping[str, float]], base: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Kinds whose loss is not below 90 % of the base's, nor so low that there is nothing to learn.

    That includes a kind that got worse from a low base, and a loss that is no number.
    """
    return [kind for kind, found in tuned.items()
            if not found["mean"] <= max(LEARNT, IMPROVED * base[kind]["mean"])]


def warnings(result: Mapping[str, Any]) -> list[str]:
    """What the numbers mean for the next run, one sentence a kind."""
    kinds = result["tuned"]["kinds"]
    broken = [kind for kind, loss in kinds.items() if not math.isfinite(loss["mean"])]
    found = []
    if broken:
        found.append(f"the loss of {', '.join(broken)} is not a number: the weights hold nan or overflow; "
                     "audit an earlier checkpoint")
    for kind in result["unlearnt"]:
        if kind in broken:
            continue
        tuned, base = kinds[kind], result["base"]["kinds"][kind]
        verdict = "got worse" if tuned["mean"] > base["mean"] else "did not improve enough"
        text = (f"{kind} {verdict}: {tuned['mean']:.3f} nats, base {base['mean']:.3f}; it is "
                f"{tuned['share']:.0%} of the whole loss")
        found.append(text + (_alternatives(result) if kind == result["end_kind"] else ""))
    return found


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
    for kind, found in result["tuned"]["kinds"].items():
        before = f"{base[kind]['mean']:.3f}" if kind in base else ""
        lines.append(f"{kind:<16}{found['count']:>9,}{found['mean']:>12.3f}{before:>9}{found['share']:>8.0%}")
    total = sum(found["count"] for found in result["tuned"]["kinds"].values())
    before = f"{result['base']['mean']:.3f}" if base else ""
    lines.append(f"{'all':<16}{total:>9,}{result['tuned']['mean']:>12.3f}{before:>9}")
    return "\n".join([*lines, *(f"warning: {text}" for text in warnings(result))])
