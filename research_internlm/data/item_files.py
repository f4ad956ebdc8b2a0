"""Items of JSON files: written, found, read and checked, one at a time.

So a data set of any size takes the memory of one block of text.
"""

from __future__ import annotations

import functools
import glob
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

from research_internlm.data.choice import ALPACA_KEYS, require_shown
from research_internlm.data.conversations import ALPACA, FORMS, MESSAGES, form_of, read_conversation
from research_internlm.data.detection import (
    DETECTION_KEYS,
    DETECTION_NOTES,
    FORMS_OF_TEXT,
    is_detection,
    parse_label,
    require_verdict,
)
from research_internlm.data.items import is_reading
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import MANIFEST_SUFFIX, read_json, require_file
from research_internlm.shared.parsing import parse_json, refuse_surrogates, strict_decoder

READING = "reading"  # the form of a question on a passage, beside those of data/conversations.py
_READING_KEYS = ("passage", "question", "output")
_TURNS = ("system", "history")  # of an alpaca item that is a conversation
_HINT = "preprocess/data_preprocess.py makes train_alpaca_format.json and its companions"
_encode_any = json.JSONEncoder(ensure_ascii=False).encode
_BLOCK = 1 << 20  # characters read at once
_SPACE = re.compile(r"[ \t\n\r]*")  # JSON's own


def write_items(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Writes items as `files.write_json` would write the list of them, byte for byte, but streamed.

    With an indent the json module leaves its C encoder for one in Python, which took most of the time of
    writing six orderings; the few shapes that items have are laid out here and their values encoded in C.

    Args:
        path: The file, where results are made (shared/result_set.py).
        items: Mappings whose values are scalars or lists of scalars.
    """
    opening = "["
    with open(path, "w", encoding="utf-8", newline="") as file:
        for item in items:
            fields = ",\n".join([_key(key) + _laid_out(value) for key, value in item.items()])
            file.write(f"{opening}\n    {{\n{fields}\n    }}")
            opening = ","
        file.write("[]" if opening == "[" else "\n]")


@functools.cache
def _key(name: str) -> str:
    return f"        {_encode(name)}: "


def _laid_out(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n            " + ",\n            ".join(map(_encode, value)) + "\n        ]"
    return _encode(value)


def _encode(value: Any) -> str:
    return encode_basestring(value) if isinstance(value, str) else _encode_any(value)


def inputs_of(pattern: str) -> list[Path]:
    """Files that --input_glob matches, sorted; manifests are not input.

    Raises:
        ToolkitError: Nothing matches.
    """
    paths = [Path(pattern)] if Path(pattern).exists() else [
        Path(name) for name in sorted(glob.glob(pattern)) if not name.endswith(MANIFEST_SUFFIX)]
    if not paths:
        raise ToolkitError(f"--input_glob {pattern} matches no file; {_HINT}")
    return paths


def read_items(path: Path, what: str = "the input", answered: bool = True) -> Iterator[dict[str, Any]]:
    """The items of one file as `read_formed` gives them."""
    return (item for _, item in read_formed(path, what, answered))


def read_formed(path: Path, what: str = "the input", answered: bool = True
                ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads one file of items, streamed, and checks every one.

    Args:
        path: The file.
        what: What it is to the user, for messages.
        answered: Whether the items are to be learnt; otherwise they are to be asked, and `output` may be
            absent or empty; a conversation needs all its answers.

    Yields:
        The form of an item, and the item as render_item takes it: a question on a passage or a single alpaca
        exchange as it stands (`input` may be left out), everything else as `messages`.

    Raises:
        ToolkitError: No list and no JSON Lines, an item lacks its text fields, or other fields hold what no
            prompt shows; the item's place is named.
    """
    for number, item in enumerate(stream_items(path, what), 1):
        try:
            yield _checked(item, answered)
        except ToolkitError as error:
            raise ToolkitError(f"{path}, item {number}: {error}") from None


def _checked(item: Any, answered: bool) -> tuple[str, dict[str, Any]]:
    if isinstance(item, dict) and is_detection(item):
        return _checked_text(item)
    form = READING if isinstance(item, dict) and is_reading(item) else form_of(item)
    if form in FORMS:
        return form, {MESSAGES: read_conversation(item)}
    wanted = _READING_KEYS if form == READING else ALPACA_KEYS
    if form in (ALPACA, READING):
        optional = {"input"} if answered else {"input", "output"}
        item = {**item, **{key: "" for key in optional.intersection(wanted) if item.get(key) is None}}
    if form is None or not all(isinstance(item.get(key), str) for key in wanted):
        raise ToolkitError(f"expected an object with the texts {', '.join(wanted)}, or with messages, "
                           f"conversation or conversations, found {str(item)[:80]}")
    if answered and not item["output"]:
        raise ToolkitError("its output is empty, so there is nothing to learn; give it an answer or remove "
                           "it")
    require_shown(item, wanted if form == READING else (*wanted, *_TURNS))
    if form == ALPACA and any(item.get(key) for key in _TURNS):
        return form, {MESSAGES: read_conversation(item)}
    return form, item


def _checked_text(item: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if not all(isinstance(item.get(key), str) for key in DETECTION_KEYS):
        raise ToolkitError(f"expected an object with the texts {', '.join(DETECTION_KEYS)}, found "
                           f"{str(item)[:80]}")
    require_verdict(item)
    require_shown(item, (*DETECTION_KEYS, *DETECTION_NOTES))
    item = {**item, "label": parse_label(item["label"])}
    return FORMS_OF_TEXT[item["label"]], item


def read_named(paths: Sequence[Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """All items of all files: the name each is listed under, its form, and the item."""
    for path in paths:
        for number, (form, item) in enumerate(read_formed(path), 1):
            yield (f"{item['id']} (ordering {item.get('ordering', 1)})" if item.get("id")
                   else f"{path.name} item {number}"), form, item


def stream_items(path: Path, what: str = "the input") -> Iterator[Any]:
    """Reads the items of a file: one JSON list, or JSON Lines (one item a line).

    Args:
        path: The file.
        what: What it is to the user, for messages.

    Yields:
        The parsed items, in order.

    Raises:
        ToolkitError: Missing, empty, not UTF-8, not JSON (with the position), no items in either form, or
            refused as `parse_json` refuses; items before the fault may have been yielded.
    """
    path = require_file(path, what, _HINT)
    try:
        yield from _lines(path) if _is_lines(path) else _items(path)
    except (ValueError, RecursionError):
        # Only a whole read tells where the fault is; it raises for all but valid JSON of another kind.
        read_json(path, what, _HINT)
        raise ToolkitError(f"{path} is not a list of items; {_HINT}") from None


def _is_lines(path: Path) -> bool:
    """Whether a file is JSON Lines: by its name or by a second object, where its first value is an object."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        first, _, rest = file.read(_BLOCK).lstrip().partition("\n")
    return first.startswith("{") and (path.suffix.lower() == ".jsonl" or rest.lstrip().startswith("{"))


def _lines(path: Path) -> Iterator[Any]:
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield parse_json(line, f"the input {path}, line {number},")


def _items(path: Path) -> Iterator[Any]:
    decoder = strict_decoder(f"the input {path}")
    with open(path, encoding="utf-8-sig", newline="") as file:
        text, opening = file.read(_BLOCK), "["
        place = _SPACE.match(text).end()
        while text[place:place + 1] == opening:
            item, text, place = _next_item(decoder, file, text, place + 1)
            yield item
            text, place = _skip_space(file, text, place)
            opening = ","
        rest = text[place + 1:] + file.read(_BLOCK)
        if opening == "[" or text[place:place + 1] != "]" or rest.strip(" \t\n\r"):
            raise ValueError("not a list")


def _skip_space(file: Any, text: str, place: int) -> tuple[str, int]:
    while (place := _SPACE.match(text, place).end()) == len(text) and (more := file.read(_BLOCK)):
        text, place = more, 0
    return text, place


def _next_item(decoder: json.JSONDecoder, file: Any, text: str, place: int) -> tuple[Any, str, int]:
    """The item after `place`, the text it was found in and the place after it."""
    text, place = _skip_space(file, text, place)
    while True:
        try:
            item, end = decoder.raw_decode(text, place)
            refuse_surrogates(text, item, f"the input {file.name}", place, end)
            return item, text, end
        except json.JSONDecodeError:
            more = file.read(_BLOCK)
            if not more:
                raise
            text, place = text[place:] + more, 0
