"""Reads JSON and yaml texts of unknown origin: whatever is wrong with them is a ToolkitError.

The standard readers trust their input. They keep the last of two equal keys silently, end in a
RecursionError on deep nesting and in a ValueError on an integer of 5,000 digits, and PyYAML expands ten lines
of aliases into gigabytes ("billion laughs"). Here each of these is one line that says where it is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

from research_internlm.shared.errors import ToolkitError

MOST_YAML_DEPTH = 100  # the shipped recipes have 5
MOST_YAML_NODES = 200_000  # of a recipe with its aliases written out; the shipped ones have about 300
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(text: str, what: str) -> Any:
    """Reads a JSON text.

    Args:
        text: The text.
        what: What it is to the user, for the message ("the test file data.json").

    Raises:
        ToolkitError: Not JSON, a key stands twice in one object, nested too deeply, a number is too long, or
            a string is not valid Unicode (half of a surrogate pair).
    """
    try:
        value = strict_decoder(what).decode(text)
    except json.JSONDecodeError as error:
        hint = ("; one JSON value was expected, this looks like JSON Lines"
                if error.msg == "Extra data" and error.lineno > 1 else "")
        raise ToolkitError(f"{what} is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
                           f"{hint}") from None
    except RecursionError:
        raise ToolkitError(f"{what} is nested too deeply to be read; no file of this toolkit is") from None
    except ValueError as error:  # Python's limit on the digits of an integer
        raise ToolkitError(f"{what} holds a number that cannot be read: {error}") from None
    refuse_surrogates(text, value, what)
    return value


def strict_decoder(what: str) -> json.JSONDecoder:
    """A decoder that refuses an object with a key twice, for readers of one value after another."""
    return json.JSONDecoder(object_pairs_hook=lambda pairs: _object(pairs, what))


def _object(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ToolkitError(f"{what} has the key {twice!r} twice in one object; keep one of them")
    return value


def refuse_surrogates(text: str, value: Any, what: str, start: int = 0, end: int = sys.maxsize) -> None:
    """Refuses strings that are not valid Unicode; only an escape in the text can make one.

    Args:
        text: The JSON text.
        value: What was read from it.
        what: What it is to the user.
        start: Where the value begins in the text.
        end: Where it ends.
    """
    if not _SURROGATE_ESCAPE.search(text, start, end):
        return
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if _SURROGATE.search(value):
                raise ToolkitError(f"{what} holds the text {value[:60]!r}, which is not valid Unicode (half "
                                   "of a surrogate pair); correct or remove it")
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def parse_yaml(text: str, what: str) -> Any:
    """Reads one yaml document of plain values (no Python tags).

    Args:
        text: The text.
        what: What it is to the user, for the message ("the config lora.yaml").

    Raises:
        ToolkitError: Not yaml, a key stands twice in one mapping, a value is not of its tag's form, nested
            too deeply, or larger than MOST_YAML_NODES with its aliases written out.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, what)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ToolkitError(f"{what} is not valid yaml: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ToolkitError(f"{what} is nested too deeply to be read; no recipe is") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that bounds nesting, refuses double keys and names a value it cannot make."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        # Python's own limit is no bound: libraries raise it.
        self._depth += 1
        if self._depth > MOST_YAML_DEPTH:
            raise RecursionError
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{str(node.value)[:60]!r} is not a valid {kind}", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name = (key.tag, key.value)
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice in one mapping; keep one of them",
                        key.start_mark)
                seen.add(name)
        return super().construct_mapping(node, deep)


def _check_size(root: yaml.Node, what: str) -> None:
    """Counts the nodes with every alias written out; a node within itself has no end."""
    sizes: dict[int, int | None] = {}  # None while a node's children are being counted

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            if sizes[id(node)] is None:
                raise ToolkitError(f"{what} has an alias that contains itself "
                                   f"(line {node.start_mark.line + 1})")
            return sizes[id(node)]
        sizes[id(node)] = None
        total = 1 + sum(size(child) for child in _children(node))
        if total > MOST_YAML_NODES:
            raise ToolkitError(f"{what} has more than {MOST_YAML_NODES:,} values with its aliases written "
                               f"out (line {node.start_mark.line + 1}); no recipe is as large")
        sizes[id(node)] = total
        return total

    size(root)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
