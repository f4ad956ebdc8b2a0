"""Scores a file of answers to "human or AI?" without a model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from research_internlm.data.detection import CLASS_NAMES, read_items, read_verdict
from research_internlm.evaluation.classification import both_ways
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, sha256_of

_NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")
OTHER = -1  # an answer that names neither class: answered, and wrong


def last_number(text: str) -> int | None:
    """The last number of an answer, as DAIGT-InternLM's metric.py reads it (ZZfive/DAIGT-InternLM).

    Returns:
        1 or 0; None where there is no number; OTHER for any other number, which agrees with no label there.
    """
    numbers = _NUMBER.findall(text)
    if not numbers:
        return None
    value = float(numbers[-1])
    return int(value) if value in (0.0, 1.0) else OTHER


READERS: MappingProxyType[str, Callable[[str], int | None]] = MappingProxyType(
    {"verdict": read_verdict, "last_number": last_number})


def score_file(test_file: str | os.PathLike, predictions_file: str | os.PathLike, reader: str
               ) -> dict[str, Any]:
    """Scores a prediction file.

    Args:
        test_file: JSON list of objects with `id`, `text` and `label` (1 = AI).
        predictions_file: JSON object, id -> generated text.
        reader: A key of READERS.

    Returns:
        `both_ways` of all texts, the ids without an answer, without a prediction and unknown, and hashes.

    Raises:
        ToolkitError: A file is not what it should be.
    """
    items = read_items(read_json(test_file, "--test"), f"--test {test_file}")
    predictions = read_json(predictions_file, "--predictions")
    if not isinstance(predictions, dict) or not all(isinstance(text, str) for text in predictions.values()):
        raise ToolkitError(f"--predictions {predictions_file} is not an object of texts; expected "
                           '{"id": "generated text", ...}')
    found = {item["id"]: READERS[reader](predictions[item["id"]])
             for item in items if item["id"] in predictions}
    calls = [1 - item["label"] if found.get(item["id"]) == OTHER else found.get(item["id"]) for item in items]
    ids = {item["id"] for item in items}
    return {
        "task": "detection-score", "reader": reader,
        **both_ways([item["label"] for item in items], calls),
        "unanswered_ids": [item["id"] for item, call in zip(items, calls, strict=True) if call is None],
        "missing_ids": [item["id"] for item in items if item["id"] not in predictions],
        "unknown_ids": [id_ for id_ in predictions if id_ not in ids],
        "other_numbers": [id_ for id_, call in found.items() if call == OTHER],
        "test_file_sha256": sha256_of(test_file), "predictions_sha256": sha256_of(predictions_file),
    }


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The table that is printed."""
    counts = result["counts"]
    yield (f"{counts['total']} texts ({counts['ai']} AI, {counts['human']} human): {counts['answered']} "
           f"answered, {counts['unanswered']} unanswered ({counts['unanswered_ai']} AI, "
           f"{counts['unanswered_human']} human)")
    yield f"{'unanswered':<30} {'accuracy':>9} {'precision':>9} {'recall':>9} {'f1':>9}   TP FP TN FN"
    for name, title in (("unanswered_wrong", "counted as wrong"),
                        ("unanswered_dropped", "dropped, as the seed counts")):
        scores = result[name]
        numbers = " ".join(f"{scores[key]:9.6f}" for key in ("accuracy", "precision", "recall", "f1"))
        yield f"{title:<30} {numbers}   " + " ".join(map(str, scores["confusion"].values()))
    yield f"positive class: {CLASS_NAMES[1]} (label 1)"
    for key, words in (("missing_ids", "texts have no prediction and count as unanswered"),
                       ("unknown_ids", "predictions belong to no text and are not scored"),
                       ("other_numbers", "answers end in a number other than 0 and 1: wrong in both rows")):
        if result.get(key):
            yield f"{len(result[key])} {words}"
