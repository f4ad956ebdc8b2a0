"""What is in a MindRecord, row by row, against the record rule (research_internlm/data/rows.py).

For every file of the two fields, upstream's converter's too: at its row boundary that one writes rows whose
labels are all -100, rows with one id more than labels, and answers without their end
(docs/traps.md#row-boundary).
"""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from research_internlm.data.families import ASSISTANT, FAMILIES
from research_internlm.data.manifest import MindRecordManifest
from research_internlm.data.rows import SCHEMA
from research_internlm.data.tokens import IGNORE_ID, PAD_ID, SpecialTokens, printed_role
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import list_folder, require_file

RAGGED, LENGTH, VOCABULARY, LABELS = "ragged", "length", "vocabulary", "labels"
BEGIN, DEAD, END, PADDING = "begin", "dead", "end", "padding"
MEANINGS = {
    RAGGED: "rows with another number of labels than of ids",
    LENGTH: "rows of another length than most",
    VOCABULARY: "rows with ids that are not in the vocabulary",
    LABELS: "rows with labels that are neither -100 nor the id at their place",
    BEGIN: "rows that do not begin with <s>",
    DEAD: "samples without a supervised token, from which nothing is learnt",
    END: "samples whose last token is no supervised end token: the answer was cut, or its end is not learnt",
    PADDING: "rows with labels in the padding",
}


@dataclass(frozen=True)
class Rule:
    """What a row is held against.

    Attributes:
        special: The special ids.
        opening: Ids of what stands before an answer.
        markers: Way to end an answer -> the ids that do.
    """

    special: SpecialTokens
    opening: tuple[int, ...]
    markers: Mapping[str, tuple[int, ...]]

    def end_of(self, ids: np.ndarray) -> str | None:
        """How a sample of these ids ends, a key of `markers`; None where it ends with none of them."""
        tail = ids[-max(map(len, self.markers.values())):].tolist()
        return next((end for end, marker in self.markers.items() if tuple(tail[-len(marker):]) == marker),
                    None)

    @classmethod
    def of(cls, processor: sentencepiece.SentencePieceProcessor, special: SpecialTokens) -> Rule:
        """The rule of a vocabulary's family."""
        row = FAMILIES[special.family]
        opening: list[int] = []
        for segment in row.turns[ASSISTANT].before:
            opening += [special[segment.content]] if segment.is_token else processor.encode(segment.content)
        markers = {end: tuple(map(special.__getitem__, roles)) for end, roles in row.end_markers.items()}
        return cls(special, tuple(opening), markers)


@dataclass(frozen=True)
class Sample:
    """One sample of a row.

    Attributes:
        ids: Its tokens, int32 (n,).
        labels: Theirs; fewer in a ragged row.
        problems: Keys of MEANINGS.
    """

    ids: np.ndarray
    labels: np.ndarray
    problems: frozenset[str]


@dataclass
class Findings:
    """What was found in all rows.

    Attributes:
        rows: Number of rows, and `samples` of samples in them.
        lengths: Ids in a row -> rows.
        tokens: Tokens that are no padding, and `supervised` those with a label.
        problems: Key of MEANINGS -> numbers of the rows, from 1.
        repeated: Samples whose ids were there before.
        packed: Whether a row holds several samples.
    """

    rows: int = 0
    samples: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    tokens: int = 0
    supervised: int = 0
    problems: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    repeated: int = 0
    packed: bool = False

    @property
    def length(self) -> int:
        """Length of most rows."""
        return self.lengths.most_common(1)[0][0]


def parts_of(path: Path, manifest: MindRecordManifest | None) -> list[Path]:
    """The MindRecord files of a data set: itself, or its partitions.

    Raises:
        ToolkitError: There is none, or one has no .db beside it, or that is of another file.
    """
    if manifest:
        parts = [path.with_name(part.file) for part in manifest.parts if not part.file.endswith(".db")]
    else:
        parts = [path] if path.exists() or not path.parent.is_dir() else [
            file for file in list_folder(path.parent)
            if file.name.startswith(path.name) and file.name[len(path.name):].isdigit()] or [path]
    for part in parts:
        require_file(part, "the MindRecord")
        index = require_file(part.with_name(part.name + ".db"), "the index of the MindRecord",
                             f"copy {part.name}.db beside it: without it the rows cannot be found")
        _require_name(index, part)
    return parts


def _require_name(index: Path, part: Path) -> None:
    """Checks that an index is one, and of a file of this name."""
    try:
        with sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True) as database:
            names = [Path(str(name)).name for (name,) in database.execute("SELECT NAME FROM SHARD_NAME")]
    except sqlite3.Error as error:
        raise ToolkitError(f"{index} is not the index of a MindRecord ({error}); copy it again") from None
    if part.name not in names:
        raise ToolkitError(f"{index} is the index of {', '.join(names)}: a MindRecord cannot be renamed or "
                           "exchanged; give both files their old name, or convert again")


def read_rows(parts: Sequence[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows: ids and labels.

    Raises:
        ToolkitError: The file is damaged, or of other fields or types.
    """
    from mindspore.mindrecord import FileReader

    for part in parts:
        try:
            reader = FileReader(str(part))
            schema = reader.schema()
            _require_fields(schema, part)
            for row in reader.get_next():
                yield row["input_ids"], row["labels"]
            reader.close()
        except RuntimeError as error:
            reason = next(iter(str(error).strip().splitlines()), "no reason given")
            raise ToolkitError(f"{part} cannot be read ({reason}): it is damaged; copy it again, or convert "
                               "again") from None


def _require_fields(schema: dict[str, Any], part: Path) -> None:
    stated = {name: entry.get("type") for name, entry in schema.items() if isinstance(entry, dict)}
    wanted = {name: entry["type"] for name, entry in SCHEMA.items()}
    wrong = [f"{name} is {stated.get(name, 'missing')}, not {kind}" for name, kind in wanted.items()
             if stated.get(name) != kind]
    if wrong:
        raise ToolkitError(f"{part} is not a MindRecord of training rows: {'; '.join(wrong)}; convert again")


def samples_of(ids: np.ndarray, labels: np.ndarray, rule: Rule) -> list[Sample]:
    """The samples of a row and what is wrong with each; padding is left out."""
    used = int(np.flatnonzero(ids != PAD_ID)[-1]) + 1 if (ids != PAD_ID).any() else 0
    row = set()
    if len(ids) != len(labels):
        row.add(RAGGED)
    if used == 0 or ids[0] != rule.special["bos"]:
        row.add(BEGIN)
    if ((ids < 0) | (ids >= rule.special.vocab_size)).any():
        row.add(VOCABULARY)
    common = min(used, len(labels))
    if ((labels[:common] != IGNORE_ID) & (labels[:common] != ids[:common])).any():
        row.add(LABELS)
    if (labels[used:] != IGNORE_ID).any():
        row.add(PADDING)
    starts = [place for place in np.flatnonzero(ids[:used] == rule.special["bos"]).tolist() if place]
    cuts = [0, *starts, used]
    return [_sample(ids[start:stop], labels[start:min(stop, common)], row, rule)
            for start, stop in itertools.pairwise(cuts)]


def _sample(ids: np.ndarray, labels: np.ndarray, row: Iterable[str], rule: Rule) -> Sample:
    problems = set(row)
    if not (labels != IGNORE_ID).any():
        problems.add(DEAD)
    is_learnt = len(ids) == len(labels) and labels[-1:].tolist() != [IGNORE_ID]
    if rule.end_of(ids) is None or not (is_learnt or problems & {DEAD, RAGGED}):
        problems.add(END)
    return Sample(ids, labels, frozenset(problems))


def inspect(rows: Iterable[tuple[np.ndarray, np.ndarray]], rule: Rule, show: int, seed: int
            ) -> tuple[Findings, list[tuple[int, Sample]]]:
    """Looks at every row.

    Args:
        rows: From `read_rows`.
        rule: What they are held against.
        show: Number of samples to draw.
        seed: Of the draw.

    Returns:
        What was found, and the drawn samples with the numbers of their rows, from 1.
    """
    found, drawn, seen, dice = Findings(), [], set(), random.Random(seed)
    odd: dict[int, list[int]] = defaultdict(list)  # length of rows -> their numbers, for the rarer lengths
    for number, (ids, labels) in enumerate(rows, 1):
        samples = samples_of(ids, labels, rule)
        found.rows += 1
        found.lengths[len(ids)] += 1
        odd[len(ids)].append(number)
        found.packed |= len(samples) > 1
        for key in set().union(*(sample.problems for sample in samples)):
            found.problems[key].append(number)
        for sample in samples:
            found.samples += 1
            found.tokens += len(sample.ids)
            found.supervised += int((sample.labels != IGNORE_ID).sum())
            content = hash(sample.ids.tobytes())
            found.repeated += content in seen
            seen.add(content)
            # Reservoir sampling: every sample has the same chance, and none is kept in memory for long.
            if len(drawn) < show:
                drawn.append((number, sample))
            elif show and (place := dice.randrange(found.samples)) < show:
                drawn[place] = (number, sample)
    if not found.rows:
        raise ToolkitError("the MindRecord has no rows; convert again")
    if others := sorted(number for length, numbers in odd.items() if length != found.length
                        for number in numbers):
        found.problems[LENGTH] = others
    return found, sorted(drawn, key=lambda entry: entry[0])


def marked(sample: Sample, processor: sentencepiece.SentencePieceProcessor, special: SpecialTokens) -> str:
    """A sample as text, its supervised part between ⟦ and ⟧, special tokens by their role."""
    names = {id_: printed_role(role) for role, id_ in special.all_ids()}
    ending = special["end_of_assistant"]  # ChatML ends every turn with the same token
    text, run, inside = "", [], False
    for place, id_ in enumerate(sample.ids.tolist()):
        supervised = place < len(sample.labels) and sample.labels[place] != IGNORE_ID
        known = 0 <= id_ < special.vocab_size
        if supervised != inside or id_ in names or not known:
            text, run = text + processor.decode(run), []
        if supervised != inside:
            text, inside = text + ("⟦" if supervised else "⟧"), supervised
        if id_ in names or not known:
            name = printed_role("end_of_assistant") if supervised and id_ == ending else names.get(id_)
            text += f"<{name or f'id {id_}'}>"
        else:
            run.append(id_)
    return text + processor.decode(run) + ("⟧" if inside else "")


def lines(found: Findings) -> Iterator[str]:
    """The findings for people."""
    positions = sum(length * count for length, count in found.lengths.items())
    yield (f"{found.rows:,} rows of {found.length} tokens, {found.samples:,} samples"
           + (" (packed)" if found.packed else ""))
    yield (f"{found.tokens / positions:.1%} of the positions are text; of the text "
           f"{found.supervised / max(found.tokens, 1):.1%} is supervised")
    if found.repeated:
        yield f"note: {found.repeated:,} samples repeat an earlier one word for word"
    for key, meaning in MEANINGS.items():
        if numbers := found.problems.get(key):
            first = ", ".join(map(str, numbers[:10])) + (" ..." if len(numbers) > 10 else "")
            yield f"problem: {len(numbers):,} {meaning} (row {first})"
