"""Texts, alpaca items and conversations of a file as token ids, as training encodes them. No MindSpore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_internlm.data.chat_template import encode
from research_internlm.data.item_files import read_items
from research_internlm.data.items import render_item
from research_internlm.inference.text_codec import TextCodec
from research_internlm.shared.files import read_text

ITEM_SUFFIXES = (".json", ".jsonl")
Content = str | Mapping[str, Any]  # a text, or a training item


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        ids: Token ids; the first one is `<s>`.
        supervised: For each whether training learns it; None in plain text, which has no answers.
    """

    ids: list[int]
    supervised: list[bool] | None


def read_contents(path: str | Path, what: str) -> Iterator[Content]:
    """Reads a file: items from `.json` and `.jsonl` (a list, or one a line), else one plain text.

    Args:
        path: The file.
        what: What the file is to the user, for messages.

    Raises:
        ToolkitError: Missing, not UTF-8, not items, or without any.
    """
    path = Path(path)
    if path.suffix.lower() not in ITEM_SUFFIXES:
        yield read_text(path, what)
    else:
        yield from read_items(path, what)


def encode_sample(content: Content, codec: TextCodec) -> Sample:
    """Encodes a text after `<s>`, or an item in its family's prompt with its answers."""
    if isinstance(content, str):
        return Sample([codec.special["bos"], *codec.processor.encode(content)], None)
    return Sample(*encode(render_item(content, codec.special.family), codec.processor, codec.special))


def windows(ids: list[int], length: int) -> list[list[int]]:
    """Cuts the ids of a sample into pieces of at most `length`; each but the first gets a `<s>` of its own.

    So every token after the first is predicted exactly once.
    """
    bos, rest = ids[0], ids[1:]
    return [[bos, *rest[start:start + length - 1]] for start in range(0, max(len(rest), 1), length - 1)]
