"""What the cleaning and the split of texts did: the manifest's facts and what is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from preprocess.detection import cleaning, surface
from preprocess.detection.cleaning import Collection
from preprocess.detection.csv_rows import CsvFile
from preprocess.detection.splits import SIDES, Split
from research_internlm.data.detection import CLASS_NAMES


def counts_of(found: Collection, clean: np.ndarray, split: Split) -> dict[str, Any]:
    """Rows in = removed by reason + set aside by reason + train + valid + test."""
    removed = Counter(reason for _, reason in found.missing)
    removed += Counter(found.removed[found.removed != ""].tolist())
    return {"rows_in": len(found.missing) + len(found), "removed": dict(removed), "clean": len(clean),
            "set_aside": dict(Counter(split.reasons[split.reasons != ""].tolist())),
            **{side: int(np.count_nonzero(split.sides == side)) for side in SIDES}}


def contents(found: Collection, clean: np.ndarray, split: Split, side: str) -> dict[str, Any]:
    """A part's texts by class, source and prompt, and the words of each class."""
    own = clean[split.sides == side]
    labels = found.labels[own]

    def by(names: list[str], numbers: np.ndarray) -> dict[str, dict[str, int]]:
        table: dict[str, dict[str, int]] = {}
        cells = Counter(zip(numbers.tolist(), labels.tolist(), strict=True))
        for (number, label), count in sorted(cells.items()):
            table.setdefault(names[number], dict.fromkeys(CLASS_NAMES, 0))[CLASS_NAMES[label]] = count
        return table

    words = {name: found.words[own][labels == label] for label, name in enumerate(CLASS_NAMES)}
    return {"per_class": {name: len(values) for name, values in words.items()},
            "words_per_text": {name: {"mean": round(float(values.mean()), 1), "max": int(values.max())}
                               for name, values in words.items()},
            "per_source": by(found.names["sources"], found.sources[own]),
            "per_prompt": by(found.names["prompts"], found.prompts[own])}


def surface_facts(found: Collection) -> dict[str, Any]:
    """Texts with each mark by class, before cleaning, and how well marks alone tell the classes."""
    table = Counter(zip(found.marks.tolist(), found.labels.tolist(), strict=True))
    per_mark = {name: {title: sum(count for (marks, label), count in table.items()
                                  if label == own and marks >> place & 1)
                       for own, title in enumerate(CLASS_NAMES)}
                for place, name in enumerate(surface.MARKS)}
    return {"texts_with_mark": per_mark, "accuracy_of_marks_alone": surface.rule_accuracies(table)}


def file_facts(files: list[CsvFile]) -> dict[str, Any]:
    """Rows of each file, the columns that were used, and those that were left out."""
    return {file.path.name: {"rows": file.rows, "columns": sorted(file.columns), "left_out": file.extra}
            for file in files}


def lines(facts: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]], removed_file: str
          ) -> Iterator[str]:
    """What the command prints."""
    counts, marks = facts["counts"], facts["surface"]
    for name, file in facts["files"].items():
        lacking = [column for column in ("source", "prompt") if column not in file["columns"]]
        if lacking:
            yield f"{name}: no {' or '.join(lacking)} column" + (
                "; the file's name stands for the source" if "source" in lacking else "")
        if file["left_out"]:
            yield f"{name}: columns left out: {', '.join(file['left_out'])}"
    removed = ", ".join(f"{count} {reason}" for reason, count in counts["removed"].items()) or "none"
    aside = ", ".join(f"{count} {reason}" for reason, count in counts["set_aside"].items()) or "none"
    yield (f"{counts['rows_in']} rows in = {counts['train']} train + {counts['valid']} valid + "
           f"{counts['test']} test + {sum(counts['removed'].values())} removed ({removed}) + "
           f"{sum(counts['set_aside'].values())} set aside ({aside}); each in {removed_file}")
    near = facts["near_duplicates"]
    yield (f"near-duplicates: {near['clusters']} clusters of {near['texts']} texts, the largest of "
           f"{near['largest']}; {near['with_both_labels']} hold both labels")
    accuracy = marks["accuracy_of_marks_alone"]
    yield (f"surface marks alone tell {accuracy['all_marks_together']:.1%} of the texts right (the commoner "
           f"class: {accuracy['commoner_class']:.1%}); "
           + ("kept" if facts["keep_surface"] else "taken out of the texts"))
    for name, part in parts.items():
        human, ai = (part["per_class"][title] for title in CLASS_NAMES)
        yield (f"{name}: {human} human, {ai} AI ({ai / (human + ai):.0%} AI), "
               f"{len(part['per_source'])} sources, {len(part['per_prompt'])} prompts")


def reasons(found: Collection, clean: np.ndarray, split: Split) -> Iterator[str]:
    """removed.jsonl, line by line: removed rows, then those of no side."""
    yield from cleaning.removed_lines(found)
    for place in np.flatnonzero(split.reasons != "").tolist():
        yield cleaning.removed_line(found, int(clean[place]), str(split.reasons[place]))
