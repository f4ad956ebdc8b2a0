"""JSON and yaml of unknown origin: read as the standard readers do, or refused with one line."""

import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.parsing import MOST_YAML_NODES, parse_json, parse_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10**30, 10**30) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(
        exclude_categories=["Cs", "Cc"]), max_size=5), inner, max_size=4), max_leaves=12)


@given(VALUES)
def test_what_is_written_is_read(value):
    assert parse_json(json.dumps(value), "x") == value
    assert parse_json(json.dumps(value, ensure_ascii=False), "x") == value
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), "x") == value


@pytest.mark.parametrize("text, message", [
    ('{"a": 1,}', "file x is not JSON: .* at line 1 column 9"),
    ('{"a": 1}\n{"a": 2}', "line 2 column 1; one JSON value was expected, this looks like JSON Lines"),
    ('{"a": 1, "b": {"c": 1, "c": 2}}', "file x has the key 'c' twice in one object"),
    ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ("1" * 5_000, "holds a number that cannot be read"),
    ('["\\ud800"]', r"holds the text '\\ud800', which is not valid Unicode"),
    ('{"\\ud83d": 1}', "not valid Unicode"),
])
def test_json_is_refused_with_one_line(text, message):
    with pytest.raises(ToolkitError, match=message):
        parse_json(text, "file x")


def test_a_whole_surrogate_pair_is_a_character():
    assert parse_json('"\\ud83d\\ude00"', "x") == "\U0001f600"


@pytest.mark.parametrize("text, message", [
    ("a: 1\nb: 2\na: 3", "the key 'a' stands twice in one mapping.* line 3"),
    ("x: 2024-13-45", "'2024-13-45' is not a valid timestamp.* line 1"),
    ("x: 0x_", "'0x_' is not a valid int"),
    ("x: !!float abc", "'abc' is not a valid float"),
    ("x: !!bool 7", "'7' is not a valid bool"),
    ("x: " + "1" * 5_000, "is not a valid int"),
    ("x: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ("a: &a [*a]", "an alias that contains itself"),
    ("x: " + "[" * 4000 + "]" * 4000, "nested too deeply"),
    ("a: [", "not valid yaml"),
])
def test_yaml_is_refused_with_one_line(text, message):
    with pytest.raises(ToolkitError, match=message) as error:
        parse_yaml(text, "the config x")
    assert "\n" not in str(error.value)


def test_aliases_are_counted_as_written_out():
    levels = math.ceil(math.log10(MOST_YAML_NODES)) + 1
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    with pytest.raises(ToolkitError, match="more than 200,000 values"):
        parse_yaml("\n".join(lines), "x")
    assert parse_yaml("a: &a {b: 1}\nc: *a", "x") == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_merge_key_may_be_overridden():
    assert parse_yaml("a: &a {b: 1}\nc: {<<: *a, b: 2}", "x")["c"] == {"b": 2}
