"""Csv rows to clean texts: one pass over the files, texts on the disk, facts of each text in memory.

A text costs about 350 bytes of memory (256 of them its signature), so a million rows cost 350 MB whatever
their length; texts and shingles lie in a temporary folder beside the output until the work is done.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import hashlib
import itertools
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from preprocess.detection import near_duplicates, surface
from preprocess.detection.csv_rows import TextRow
from research_internlm.shared.errors import ToolkitError

RULES = ("duplicates", "near_duplicates", "both_labels")
_BATCH, _BATCHES_AHEAD = 256, 8


@dataclass(frozen=True)
class Rules:
    """What is removed.

    Attributes:
        min_words: Texts of fewer words; a Chinese character is a word.
        keep_surface: Whether texts keep their surface marks.
        keep: Those of RULES that are not applied.
        least_jaccard: Similarity from which a pair is near-duplicate.
    """

    min_words: int = 20
    keep_surface: bool = False
    keep: frozenset[str] = frozenset()
    least_jaccard: float = 0.7


@dataclass(frozen=True)
class Facts:
    """Facts of a batch of texts, each array with one entry a text.

    Attributes:
        texts: As they are kept, UTF-8.
        words: Their numbers of words, int64.
        marks: Surface marks found, as bits, int64.
        digests: Of the text without marks and with single spaces, 16 bytes.
        signatures: uint32 (texts, PERMUTATIONS).
        shingles: Sorted hashes of each text, uint32.
    """

    texts: list[bytes]
    words: np.ndarray
    marks: np.ndarray
    digests: np.ndarray
    signatures: np.ndarray
    shingles: list[np.ndarray]


@functools.cache
def _signer() -> near_duplicates.Signer:
    """One a process, with the hashes of the words it has met."""
    return near_duplicates.Signer()


def examine(texts: Sequence[str], keep_surface: bool) -> Facts:
    """Cleans texts and finds out what the rules ask about them; in a worker process."""
    signer = _signer()
    kept, words, marks, digests, signatures, shingles = [], [], [], [], [], []
    for text in texts:
        found = surface.marks_of(text)
        plain = surface.normalise(text, found)
        own = near_duplicates.words_of(plain)
        kept.append((text if keep_surface else plain).encode("utf-8", "surrogatepass"))
        words.append(len(own))
        marks.append(found)
        digests.append(hashlib.blake2b(" ".join(plain.split()).encode("utf-8", "surrogatepass"),
                                       digest_size=16).digest())
        shingles.append(signer.shingles(own))
        signatures.append(signer.signature(shingles[-1]))
    return Facts(kept, np.array(words), np.array(marks), np.array(digests, "S16").view("u8").reshape(-1, 2),
                 np.array(signatures, np.uint32), shingles)


class Spool:
    """Arrays of different lengths on the disk, appended once and then read in any order."""

    def __init__(self, path: Path, kind: Any) -> None:
        self._path, self._kind = path, np.dtype(kind)
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by finish)
        self._sizes: list[np.ndarray] = []

    def append(self, arrays: Sequence[bytes | np.ndarray]) -> None:
        """Adds the arrays of a batch."""
        self._sizes.append(np.array([len(array) for array in arrays], np.int64))
        self._file.write(b"".join(arrays))

    def finish(self) -> None:
        """Ends the writing."""
        self._file.close()
        self._ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *self._sizes]))
        self._sizes.clear()
        self._content = (np.memmap(self._path, self._kind, "r") if self._ends[-1]
                         else np.zeros(0, self._kind))

    def __getitem__(self, index: int) -> np.ndarray:
        return self._content[self._ends[index]:self._ends[index + 1]]


@dataclass
class Collection:
    """All texts that have a text and a label.

    Attributes:
        spool: Their texts, UTF-8.
        shingles: Their shingles.
        names: `files`, `sources` and `prompts` by number.
        labels, words, marks, files, rows, sources, prompts: Facts by text; `rows` count within the file.
        clusters: For each text the first of its near-duplicates.
        removed: For each text the rule that removes it, "" for none.
        missing: id and reason of the rows without text or label.
    """

    spool: Spool
    shingles: Spool
    names: dict[str, list[str]] = field(default_factory=dict)
    labels: np.ndarray = None
    words: np.ndarray = None
    marks: np.ndarray = None
    digests: np.ndarray = None
    signatures: np.ndarray = None
    files: np.ndarray = None
    rows: np.ndarray = None
    sources: np.ndarray = None
    prompts: np.ndarray = None
    clusters: np.ndarray = None
    removed: np.ndarray = None
    missing: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def id_of(self, index: int) -> str:
        """`file.csv:7`."""
        return f"{self.names['files'][self.files[index]]}:{self.rows[index]}"

    def text_of(self, index: int) -> str:
        """The text as it is kept."""
        return self.spool[index].tobytes().decode("utf-8", "surrogatepass")


def collect(rows: Iterable[TextRow], rules: Rules, folder: Path, processes: int) -> Collection:
    """Reads all rows, examines their texts in worker processes and notes the facts.

    Args:
        rows: Of all files, streamed.
        rules: Say whether surface marks are kept.
        folder: For the spools.
        processes: Workers.

    Raises:
        ToolkitError: What the rows raise; no row with text and label; a worker was killed.
    """
    _signer()  # what is not installed is said before the reading
    found = Collection(Spool(folder / "texts", np.uint8), Spool(folder / "shingles", np.uint32))
    numbers: dict[str, dict[str, int]] = {"files": {}, "sources": {}, "prompts": {}}
    columns: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for batch, facts in _examined(_with_text_and_label(rows, found.missing), rules.keep_surface, processes):
        found.spool.append(facts.texts)
        found.shingles.append(facts.shingles)
        for name in ("words", "marks", "digests", "signatures"):
            columns[name].append(getattr(facts, name))
        columns["labels"].append(np.array([row.label for row in batch], np.int8))
        places = [row.id.rpartition(":") for row in batch]
        columns["rows"].append(np.array([int(number) for *_, number in places]))
        for name, values in (("files", [file for file, *_ in places]),
                             ("sources", [row.source for row in batch]),
                             ("prompts", [row.prompt for row in batch])):
            known = numbers[name]
            columns[name].append(np.array([known.setdefault(value, len(known)) for value in values],
                                          np.int32))
    if not columns:
        raise ToolkitError(f"none of the {len(found.missing)} rows has both a text and a label; check the "
                           "csv files")
    for name in list(columns):
        setattr(found, name, np.concatenate(columns.pop(name)))
    found.spool.finish()
    found.shingles.finish()
    found.names = {name: list(known) for name, known in numbers.items()}
    return found


def _with_text_and_label(rows: Iterable[TextRow], missing: list[tuple[str, str]]) -> Iterator[TextRow]:
    for row in rows:
        lacking = [name for name, lacks in (("text", not row.text.strip()), ("label", row.label is None))
                   if lacks]
        if lacking:
            missing.append((row.id, f"missing_{'_and_'.join(lacking)}"))
        else:
            yield row


def _examined(rows: Iterator[TextRow], keep_surface: bool, processes: int
              ) -> Iterator[tuple[list[TextRow], Facts]]:
    """Batches of rows with the facts of their texts, in order, a few batches ahead."""
    context = multiprocessing.get_context("fork")  # nothing is loaded twice, and no MindSpore is loaded
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        waiting: collections.deque = collections.deque()
        try:
            while batch := list(itertools.islice(rows, _BATCH)):
                waiting.append((batch, pool.submit(examine, [row.text for row in batch], keep_surface)))
                if len(waiting) >= _BATCHES_AHEAD:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise ToolkitError("a process that examines texts was ended (out of memory?); run the same "
                               "command again, with --num_workers 1 where memory is short") from None
        finally:
            for _, future in waiting:
                future.cancel()


def apply_rules(found: Collection, rules: Rules) -> None:
    """Sets `clusters` and `removed`.

    The rules in this order; a text is listed under the first that removes it: too short; the same text with
    both labels, and clusters of near-duplicates with both (all of them); equal to an earlier text; near to
    an earlier text.
    """
    count = len(found)
    equal = _first_of_equal(found.digests)
    clusters = near_duplicates.Clusters(count)
    for index in np.flatnonzero(equal != np.arange(count)).tolist():
        clusters.join(index, int(equal[index]))
    found.clusters = near_duplicates.cluster(found.signatures, found.shingles.__getitem__,
                                             rules.least_jaccard, clusters)
    found.removed = np.full(count, "", "U32")
    long_enough = found.words >= rules.min_words

    def remove(which: np.ndarray, reason: str) -> None:
        found.removed[which & (found.removed == "")] = reason

    remove(~long_enough, "too_short")
    if "both_labels" not in rules.keep:
        remove(_with_both(equal, found.labels, long_enough), "both_labels")
        remove(_with_both(found.clusters, found.labels, long_enough), "near_duplicates_with_both_labels")
    if "duplicates" not in rules.keep:
        remove(~_first_left(equal, found.removed == ""), "duplicate")
    if "near_duplicates" not in rules.keep:
        # Equal texts that were asked to be kept are no near-duplicates of each other.
        first = _first_left(found.clusters, found.removed == "")
        kept = first[equal] if "duplicates" in rules.keep else first
        remove(~kept, "near_duplicate")


def _first_of_equal(digests: np.ndarray) -> np.ndarray:
    """For each text the first one equal to it."""
    _, first, group = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    return first[group.reshape(-1)]


def _with_both(groups: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Whether the group of each text holds both labels among the texts that count."""
    seen = np.zeros((len(groups), 2), bool)
    seen[groups[counted], labels[counted]] = True
    return counted & seen[groups].all(axis=1)


def _first_left(groups: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Whether each text is the first of its group among those that are left."""
    indices = np.flatnonzero(left)
    _, first = np.unique(groups[indices], return_index=True)
    result = np.zeros(len(groups), bool)
    result[indices[first]] = True
    return result


def removed_lines(found: Collection) -> Iterator[str]:
    """JSON Lines of every row that a rule removed, with the first text of its cluster."""
    for id_, reason in found.missing:
        yield json.dumps({"id": id_, "reason": reason}, ensure_ascii=False) + "\n"
    for index in np.flatnonzero(found.removed != "").tolist():
        yield removed_line(found, index, str(found.removed[index]))


def removed_line(found: Collection, index: int, reason: str) -> str:
    """The line of one text."""
    return json.dumps({"id": found.id_of(index), "reason": reason, "label": int(found.labels[index]),
                       "words": int(found.words[index]), "cluster": found.id_of(int(found.clusters[index]))},
                      ensure_ascii=False) + "\n"


def cluster_facts(found: Collection, most: int = 50) -> dict[str, Any]:
    """Clusters of two or more texts: how many, and the largest ones with their texts' ids."""
    names, sizes = np.unique(found.clusters, return_counts=True)
    shared = np.flatnonzero(sizes > 1)
    seen = np.zeros((len(found), 2), bool)
    seen[found.clusters, found.labels] = True
    largest = shared[np.argsort(-sizes[shared], kind="stable")][:most]
    members = np.argsort(found.clusters, kind="stable")  # cluster by cluster, each in order
    starts = np.cumsum(sizes) - sizes
    return {"clusters": len(shared), "texts": int(sizes[shared].sum()), "largest": int(sizes.max()),
            "with_both_labels": int(seen[names[shared]].all(axis=1).sum()),
            "listed": [[found.id_of(index)
                        for index in members[starts[place]:starts[place] + min(sizes[place], 20)].tolist()]
                       for place in largest.tolist()]}
