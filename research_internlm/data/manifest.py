"""The manifests of data sets: what a step wrote, of what, and what a later step must know of it.

A manifest lies beside its data set (`NAME.manifest.json`, shared/files.py) and is written last.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from research_internlm.shared import files, schema
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.schema import Count, FileName, Rule, Sha256

_AGAIN = "make the data set again with the tool of preprocess/ that wrote it"
# Manifests did not always say; the files of that time hold exam questions of the first wording.
_FIRST_WORDINGS = ("exam-1",)
SpecialIds = Annotated[dict[str, Count], Rule(lambda ids: "vocab_size" in ids, "an object with vocab_size")]


@dataclass(frozen=True, kw_only=True)
class DataManifest:
    """What the manifest of any data set says; each tool of preprocess/ adds its own counts and settings.

    Attributes:
        tool: What wrote it.
        inputs: File name -> sha256 of what it was made from.
        counts: Rows, items or questions by what became of them.
        evaluation_kind: What a test on it measures: `held_out`, `reordered_train_questions` (memory),
            `mixed` or `unknown`.
        wordings: Versions of the wording of the tasks that the file holds.
        sha256: Of the file; None where there are several.
        together: File name -> sha256 of all files of the run that wrote this one, itself included.
    """

    tool: str
    inputs: dict[str, str]
    counts: dict[str, Any]
    evaluation_kind: str = "unknown"
    wordings: list[str] = field(default_factory=lambda: [*_FIRST_WORDINGS])
    sha256: Sha256 | None = None
    together: dict[FileName, Sha256] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a MindRecord.

    Attributes:
        file: Its name, in the folder of the manifest.
        bytes: Its size.
        sha256: Of its content.
    """

    file: FileName
    bytes: Count
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the items.

    Attributes:
        in_: Items read.
        samples: Items that were written.
        out: Rows written.
        dropped: Reason -> items left out.
    """

    in_: Count
    samples: Count
    out: Annotated[int, Rule(lambda rows: rows > 0, "a whole number above 0")]
    dropped: dict[str, Count]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens in the rows.

    Attributes:
        total: All tokens without padding.
        supervised: Those with a label.
        padding: Positions without a token.
        longest: Of the longest sample.
        longest_answer: Most supervised tokens in one row.
        fill: Share of the positions that hold a token, 0 to 1.
    """

    total: Count
    supervised: Count
    padding: Count
    longest: Count
    longest_answer: Count
    fill: float


@dataclass(frozen=True, kw_only=True)
class SamplesPerRow:
    """Samples in one row; more than one in a packed file.

    Attributes:
        mean: Over all rows.
        max: Most in one row.
    """

    mean: float
    max: Count


@dataclass(frozen=True, kw_only=True)
class MindRecordManifest:
    """What a MindRecord of training or evaluation rows is.

    Attributes:
        parts: Its files, `.db` files included.
        tool: What wrote it.
        inputs: File name -> sha256 of the JSON files it was made from.
        tokenizer_sha256: Of tokenizer.model.
        special_ids: Piece -> id of the pieces that the template uses, and `vocab_size`.
        prompt_version: Version of the template that rendered it.
        evaluation_kind: As in DataManifest; `mixed` where the inputs differ.
        wordings: As in DataManifest.
        seq_length: `--seq_length`, tokens.
        record_length: Tokens in a row, one more than seq_length in a training file.
        packed: Whether rows hold several samples.
        counts: Items and rows.
        dropped: Every item left out, with its length.
        forms: Items by the form they had in the JSON files (data/conversations.py; `reading`: questions on a
            passage).
        train_on: Which answers of a conversation have labels, `all` or `last`.
        shortened: Every conversation that lost its oldest exchanges to fit its row: its tokens before, and
            how many exchanges went.
        tokens: Tokens in the rows.
        samples_per_row: How full packed rows are.
        seed: Of the packing; None where it is not packed.
        cut_texts: Texts to be judged (detection) that lost a part to fit their row, by their form.
        cut: What these lost: `end`, or `head_tail` for the middle; None where there are none.
        sha256: Of the file; None where there are several parts.
        bytes: Its size; None where there are several parts.
    """

    parts: list[Part]
    tool: str
    inputs: dict[str, str]
    tokenizer_sha256: str
    special_ids: SpecialIds
    prompt_version: str
    wordings: list[str] = field(default_factory=lambda: [*_FIRST_WORDINGS])
    evaluation_kind: str
    seq_length: Count
    record_length: Count
    packed: bool
    counts: Counts
    dropped: list[dict[str, Any]]
    forms: dict[str, Count] = field(default_factory=dict)
    train_on: str = "all"
    shortened: list[dict[str, Any]] = field(default_factory=list)
    tokens: Tokens
    samples_per_row: SamplesPerRow
    seed: int | None = None
    cut_texts: dict[str, Count] = field(default_factory=dict)
    cut: str | None = None
    sha256: Sha256 | None = None
    bytes: Count | None = None


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What run.json keeps of a data file of the run; the fields are those of MindRecordManifest.

    Attributes:
        file: Path of the file, as the recipe named it.
    """

    file: str
    sha256: Sha256 | None = None
    packed: bool
    counts: Counts
    tokens: Tokens
    seq_length: Count
    tokenizer_sha256: str
    prompt_version: str
    evaluation_kind: str

    @classmethod
    def of(cls, path: str, manifest: MindRecordManifest) -> RunData:
        """The facts of the file of a manifest."""
        return cls(file=path, **{own.name: getattr(manifest, own.name) for own in fields(cls)[1:]})


def write_data_manifest(path: str | os.PathLike, **facts: Any) -> None:
    """Writes the manifest of a JSON data set.

    Args:
        path: The data set.
        **facts: Those of DataManifest, and whatever else its tool knows.

    Raises:
        ToolkitError: Facts of DataManifest are missing, so no reader would take it.
    """
    schema.parse(DataManifest, facts, f"the manifest of {path}")
    files.write_manifest(path, **facts)


def read_mindrecord_manifest(path: str | os.PathLike) -> MindRecordManifest | None:
    """The manifest beside a MindRecord, or None where there is none.

    Raises:
        ToolkitError: There is one, but it is not as the converter writes it.
    """
    return _read(path, MindRecordManifest)


def read_data_manifest(path: str | os.PathLike) -> DataManifest | None:
    """The manifest beside any data set, or None where there is none.

    Raises:
        ToolkitError: There is one, but it is not as preprocess/ writes it.
    """
    return _read(path, DataManifest)


def require_own_manifest(path: str | os.PathLike) -> DataManifest | None:
    """The manifest beside a JSON data set, after a look at whether it is this file's.

    Returns:
        The manifest, or None where there is none.

    Raises:
        ToolkitError: It is damaged or of another file, or a file beside it comes from another run of the
            tool, as questions of one run's test can be in another run's training.
    """
    path = Path(path)
    manifest = read_data_manifest(path)
    if manifest is None:
        return None
    files.require_file(path, "the input", _AGAIN)
    if manifest.sha256 not in (None, files.sha256_of(path)):
        raise ToolkitError(f"{path} is not the file that {files.manifest_path(path).name} was written for: "
                           f"it was edited or copied alone; {_AGAIN}, or remove the manifest")
    for name, sha256 in manifest.together.items():
        other = read_data_manifest(path.with_name(name))
        if other is not None and other.sha256 != sha256:
            raise ToolkitError(f"{path} and {name} beside it come from two runs of {manifest.tool}, which "
                               f"may have split the questions otherwise: {_AGAIN}, or remove {name}")
    return manifest


def _read(path: str | os.PathLike, kind: type[schema.T]) -> schema.T | None:
    manifest = files.manifest_path(path)
    return schema.read(manifest, kind, "the manifest", _AGAIN) if manifest.exists() else None
