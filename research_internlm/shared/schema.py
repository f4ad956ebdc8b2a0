"""What a JSON file holds is said once: a dataclass that its writer fills and its readers are given.

A field's annotation says what its value may be: str, int, float, bool, Any, `X | None`, list[X],
dict[str, X], Literal, another dataclass, or Annotated[X, Rule(...)]. A field with a default may be absent.
Keys that no field names are ignored, so files of older and newer versions stay readable. A name that Python
reserves is written with an underscore after it (`in_` is the key `in`).
"""

from __future__ import annotations

import functools
import os
import re
import reprlib
import sys
import types
import unicodedata
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import PureWindowsPath
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json

T = TypeVar("T")
_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false",
          dict: "an object", list: "a list", type(None): "null"}
_LARGEST = 1 << 63  # a larger whole number is not a count, size or seed, and Python cannot print them all


@dataclass(frozen=True)
class Rule:
    """What a value must be beyond its type, as in Annotated[str, Rule(test, wanted)].

    Attributes:
        holds: Tells whether what was built, of the right type, is valid.
        wanted: What was expected, for the message.
    """

    holds: Callable[[Any], bool]
    wanted: str


def is_plain_path(name: str) -> bool:
    """Whether a name leads to a file below the folder it is joined to, and to nothing else, on any system."""
    return (all(part not in ("", ".", "..") for part in name.split("/")) and "\\" not in name
            and not PureWindowsPath(name).drive
            # Control characters, lone surrogates and line separators; other spaces are part of a name.
            and not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in name))


Sha256 = Annotated[str, Rule(re.compile("[0-9a-f]{64}").fullmatch, "a sha256 of 64 hexadecimal digits")]
Count = Annotated[int, Rule(lambda number: number >= 0, "a whole number of 0 or more")]
Interval = Annotated[list[float], Rule(lambda bounds: len(bounds) == 2, "a lower and an upper bound")]
PlainPath = Annotated[str, Rule(is_plain_path, "a plain relative path")]
FileName = Annotated[str, Rule(lambda name: is_plain_path(name) and "/" not in name, "a plain file name")]


def read(path: str | os.PathLike, kind: type[T], what: str, hint: str = "") -> T:
    """Reads a JSON file of a known kind.

    Args:
        path: The file.
        kind: A dataclass, or a list or dict of them.
        what: What the file is to the user ("the upload record").
        hint: What to do when it is not valid, put at the end of the message.

    Raises:
        ToolkitError: Missing, not JSON, or not of this kind; everything that is wrong is listed.
    """
    return parse(kind, read_json(path, what, hint), f"{what} {path}", hint)


def parse(kind: type[T], value: Any, source: str, hint: str = "") -> T:
    """Checks a JSON value and builds what it holds.

    Args:
        kind: A dataclass, or any other annotation of the module's list.
        value: As json.loads gives it.
        source: Where it is from, for the message.
        hint: What to do when it is not valid.

    Raises:
        ToolkitError: The value is not of this kind; everything that is missing or wrong is listed.
    """
    wrong: list[str] = []
    built = _read(kind, value, "", wrong)
    if wrong:
        raise ToolkitError(f"{source} is not valid: {', '.join(wrong)}" + (f"; {hint}" if hint else ""))
    return built


def problems(kind: Any, value: Any) -> list[str]:
    """Everything in which a JSON value is not of a kind, a sentence each."""
    wrong: list[str] = []
    _read(kind, value, "", wrong)
    return wrong


def to_json(value: Any) -> Any:
    """The JSON value of a dataclass, keys in the order of its fields."""
    if is_dataclass(value):
        return {key_of(field.name): to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def key_of(field: str) -> str:
    """The JSON key of a field."""
    return field.removesuffix("_")


def _read(kind: Any, value: Any, path: str, wrong: list[str]) -> Any:
    """Builds `kind` of a value; adds what is wrong to `wrong` and then returns something of no use."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        before = len(wrong)
        built = _read(arguments[0], value, path, wrong)
        if len(wrong) == before and not arguments[1].holds(built):
            wrong.append(_unexpected(path, value, arguments[1].wanted))
        return built
    if origin in (Union, types.UnionType):  # X | None is the only one there is
        [other] = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _read(other, value, path, wrong)
    if not _is_of(kind, value):
        wrong.append(_unexpected(path, value, _wanted(kind)))
    elif is_dataclass(kind):
        return _read_object(kind, value, path, wrong)
    elif origin is list:
        return [_read(arguments[0], item, f"{path}[{place}]", wrong) for place, item in enumerate(value)]
    elif origin is dict:
        return {_read(arguments[0], key, f"a key of {path or 'the content'}", wrong):
                _read(arguments[1], item, _below(path, key), wrong) for key, item in value.items()}
    return value


def _read_object(kind: type, value: dict[str, Any], path: str, wrong: list[str]) -> Any:
    before, built = len(wrong), {}
    hints = _hints(kind)
    for field in fields(kind):
        key = key_of(field.name)
        if key in value:
            built[field.name] = _read(hints[field.name], value[key], _below(path, key), wrong)
        elif field.default is MISSING and field.default_factory is MISSING:
            wrong.append(f"{_below(path, key)} is missing")
    return kind(**built) if len(wrong) == before else None


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a value is of a type at all, what it holds left out; true and false are not numbers."""
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if isinstance(value, bool) and kind is not bool:
        return False
    if kind is float:  # neither nan, nor inf, nor a whole number that no float can hold
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    if kind is int:
        return isinstance(value, int) and -_LARGEST <= value < _LARGEST
    return isinstance(value, dict if is_dataclass(kind) else get_origin(kind) or kind)


def _wanted(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return _NAMES[dict if is_dataclass(kind) else get_origin(kind) or kind]


def _unexpected(path: str, value: Any, wanted: str) -> str:
    if isinstance(value, (bool, dict, list, type(None))):
        shown = str(value).lower() if isinstance(value, bool) else _NAMES[type(value)]
    else:
        shown = reprlib.repr(value)
    return f"{path or 'the content'} is {shown}, {wanted} was expected"


def _below(path: str, key: str) -> str:
    """The path of a key; one that is not a plain word is quoted, as it can hold any character."""
    if re.fullmatch(r"[\w-]+", str(key)):
        return f"{path}.{key}" if path else str(key)
    return f"{path}[{reprlib.repr(key)}]"
