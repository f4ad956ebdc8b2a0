"""The schema of JSON files: what is written can be read, and all that is wrong is named at once."""

import copy
import json
import math
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research_internlm.checkpoints.adapters import BaseOfRun
from research_internlm.data.manifest import DataManifest, MindRecordManifest, RunData
from research_internlm.mirroring.index import Index, Mirrored
from research_internlm.runs.attempts import Attempt
from research_internlm.runs.results import ChoiceCounts, MmluResult, PredictionScores, SquadResult
from research_internlm.runs.run_info import RunInfo
from research_internlm.shared import schema
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.schema import (
    Count,
    FileName,
    Interval,
    PlainPath,
    Sha256,
    is_plain_path,
    to_json,
)
from research_internlm.storage.links import Link

FILES = (RunInfo, MindRecordManifest, DataManifest, MmluResult, SquadResult, PredictionScores, Attempt, Link,
         Mirrored)
KNOWN = {Sha256: st.text("0123456789abcdef", min_size=64, max_size=64), Count: st.integers(0, 2**63 - 1),
         PlainPath: st.sampled_from(["a", "b/c.json", "d e"]), FileName: st.sampled_from(["a", "b.db"])}
KNOWN |= {str: st.text(), int: st.integers(-2**63, 2**63 - 1), bool: st.booleans(),
          float: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-10, 10), Any: st.none()}
KNOWN |= {Interval: st.tuples(KNOWN[float], KNOWN[float]).map(list)}


def values(kind):
    """JSON values of a kind."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in KNOWN:
        return KNOWN[kind]
    if origin is Annotated and "vocab_size" in arguments[1].wanted:
        return values(arguments[0]).map(lambda ids: {**ids, "vocab_size": 5})
    if origin is Annotated:
        return st.integers(1, 9)  # the other rules want a number above 0
    if origin in (Union, UnionType):
        return st.none() | values(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return st.fixed_dictionaries({schema.key_of(field.name): values(hints[field.name])
                                      for field in fields(kind)})
    if origin is list:
        return st.lists(values(arguments[0]), max_size=2)
    return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)


def leaves(kind, value, path=()):
    """Path, field kind and whether it may be absent, of every key that a dataclass names."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        key, hint = schema.key_of(field.name), hints[field.name]
        yield (*path, key), hint, not (field.default is MISSING and field.default_factory is MISSING)
        if is_dataclass(hint):
            yield from leaves(hint, value[key], (*path, key))


def changed(value, path, change):
    """A copy in which one key is deleted, or holds something else."""
    value = copy.deepcopy(value)
    here = value
    for key in path[:-1]:
        here = here[key]
    if change is MISSING:
        del here[path[-1]]
    else:
        here[path[-1]] = change
    return value


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_again(kind, data):
    value = data.draw(values(kind))
    built = schema.parse(kind, value, "x")
    assert to_json(built) == value
    assert list(to_json(built)) == [schema.key_of(field.name) for field in fields(kind)]
    assert schema.parse(kind, json.loads(json.dumps(to_json(built))), "x") == built
    assert schema.parse(kind, {**value, "a key of a newer version": 1}, "x") == built


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_missing_or_wrong_key_is_named(kind, data):
    value = data.draw(values(kind))
    for path, hint, has_default in leaves(kind, value):
        name = ".".join(path)
        found = schema.problems(kind, changed(value, path, MISSING))
        assert found == ([] if has_default else [f"{name} is missing"])
        wrong = {"a": {"b": 1}} if "list" in str(hint) or hint is str or "float" in str(hint) else []
        [problem] = schema.problems(kind, changed(value, path, wrong))
        assert problem.startswith(f"{name} is {'a list' if wrong == [] else 'an object'}, ")


@pytest.mark.parametrize("kind", FILES)
def test_everything_is_said_at_once(kind):
    required = [schema.key_of(field.name) for field in fields(kind)
                if field.default is MISSING and field.default_factory is MISSING]
    assert schema.problems(kind, {}) == [f"{key} is missing" for key in required]
    for value, shown in (([], "a list"), (None, "null"), ("x", "'x'"), (True, "true"), (5, "5")):
        assert schema.problems(kind, value) == [f"the content is {shown}, an object was expected"]


@dataclass(frozen=True)
class _Inner:
    out: int
    in_: float = 0.0


@dataclass(frozen=True)
class _Outer:
    workers: int
    on: bool
    data: dict[str, _Inner]
    parts: list[Sha256]
    mode: Literal["a", "b"]
    seed: int | None = None


GOOD = {"workers": 1, "on": True, "data": {"x": {"out": 1, "in": 2}}, "parts": ["0" * 64], "mode": "a"}


def test_a_key_that_python_reserves():
    assert schema.parse(_Outer, GOOD, "x").data["x"] == _Inner(1, 2)
    assert to_json(schema.parse(_Outer, GOOD, "x"))["data"]["x"] == {"out": 1, "in": 2}


@pytest.mark.parametrize(("change", "words"), [
    ({"workers": "x"}, "workers is 'x', a whole number was expected"),
    ({"workers": True}, "workers is true, a whole number was expected"),
    ({"workers": 1.0}, "workers is 1.0, a whole number was expected"),
    ({"workers": 10**400}, "a whole number was expected"),
    ({"workers": None}, "workers is null, a whole number was expected"),
    ({"seed": "x"}, "seed is 'x', a whole number was expected"),
    ({"on": 1}, "on is 1, true or false was expected"),
    ({"mode": "c"}, "mode is 'c', 'a' or 'b' was expected"),
    ({"mode": ["a"]}, "mode is a list, 'a' or 'b' was expected"),
    ({"data": {"x": {}}}, "data.x.out is missing"),
    ({"data": {"x": {"out": 1, "in": math.nan}}}, "data.x.in is nan, a number was expected"),
    ({"data": {"x": {"out": 1, "in": 10**400}}}, "a number was expected"),
    ({"data": {"a/b": 5}}, "data['a/b'] is 5, an object was expected"),
    ({"data": {"\x1b]0;": 5}}, r"data['\x1b]0;'] is 5, an object was expected"),
    ({"parts": ["0" * 64, "0" * 63]}, "a sha256 of 64 hexadecimal digits was expected"),
    ({"parts": ["0" * 64 + "\n"]}, "a sha256 of 64 hexadecimal digits was expected"),
    ({"parts": ["A" * 64]}, "a sha256 of 64 hexadecimal digits was expected"),
    ({"parts": [5]}, "parts[0] is 5, a text was expected")])
def test_one_sentence_says_what_was_found_and_expected(change, words):
    with pytest.raises(ToolkitError) as caught:
        schema.parse(_Outer, {**GOOD, **change}, "the file x.json", "make it again")
    text = str(caught.value)
    assert text.startswith("the file x.json is not valid: ") and text.endswith("; make it again")
    assert words in text and text.isprintable() and len(text) < 300


@pytest.mark.parametrize("name", [
    "", ".", "..", "../a", "a/../b", "/a", "a//b", "a/", "./a", "a\\b", "..\\a", "C:a", "C:/a", "a\nb", "a\0",
    "\x1b[2J", "\ud800", "a\u2028b", "\u202ea"])
def test_a_path_that_leads_elsewhere_or_cannot_be_printed_is_not_plain(name):
    assert not is_plain_path(name)


@pytest.mark.parametrize("name", ["a", "a/b.json", "msrun_log/attempt-001/worker_0.log", "..a", "结果 1.json",
                                  "a\u3000b"])
def test_a_plain_path(name):
    assert is_plain_path(name)


def test_the_part_of_run_json_beside_an_adapter_is_run_json_s():
    own, whole = (get_type_hints(kind, include_extras=True) for kind in (BaseOfRun, RunInfo))
    assert own.items() <= whole.items()
    kept, manifest = (get_type_hints(kind, include_extras=True) for kind in (RunData, MindRecordManifest))
    assert {**kept, "file": str}.items() <= {**manifest, "file": str}.items()


def test_an_index_is_checked_whole():
    assert schema.problems(Index, {"recipe": {}, "facts": {}, "files": {"/etc/x": {"sha256": "../x"}},
                                   "leftovers": ["../y"]})[:1] == [
        "recipe is an object, a training recipe with runner_config, train_dataset and callbacks that "
        "each have a type was expected"]


@pytest.mark.parametrize("bounds", [[], [0.5], [0.4, 0.5, 0.6]])
def test_an_interval_has_two_bounds(bounds):
    counts = {"total": 4, "correct": 2, "unmatched": 0, "accuracy": 0.5}
    assert not schema.problems(ChoiceCounts, counts | {"interval_95": [0.15, 0.85]})
    [problem] = schema.problems(ChoiceCounts, counts | {"interval_95": bounds})
    assert problem.startswith("interval_95 is a list") and "a lower and an upper bound" in problem
