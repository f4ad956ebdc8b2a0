"""Items of alpaca JSON: streamed as the whole file would be read, and checked."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.mindrecord import items as item_files
from research_internlm.shared.errors import ToolkitError

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                                  max_size=3), max_leaves=6)


@pytest.fixture
def blocks(monkeypatch):
    """Blocks of 7 characters: every item is cut somewhere."""
    monkeypatch.setattr(item_files, "_BLOCK", 7)


def test_streaming_gives_what_a_whole_read_gives(tmp_path, blocks):
    path = tmp_path / "items.json"

    @settings(deadline=None)
    @given(st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), min_size=1, max_size=5),
           st.sampled_from([None, 1, 4]), st.booleans(), st.sampled_from(["", "\n", " \r\n\t "]))
    def check(items, indent, ascii_only, around):
        text = around + json.dumps(items, indent=indent, ensure_ascii=ascii_only) + around
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            text.encode()
        except UnicodeEncodeError:
            return
        assert list(item_files.stream_items(path)) == items

    check()


@pytest.mark.parametrize("text", ["[{}", "[{},]", "[{}] x", "[{} {}]", "{}", "[,{}]", '[{"a": "b]', "[{}]]"])
def test_what_is_no_list_is_refused(tmp_path, blocks, text):
    path = tmp_path / "items.json"
    path.write_text(text)
    with pytest.raises(ToolkitError, match=r"not JSON|not a list"):
        list(item_files.stream_items(path))


@pytest.mark.parametrize(("content", "message"), [
    ("[]", "not a list of items"), ("{}", "not a list of items"), ("[1]", "item 1: expected an object"),
    ('[{"instruction": "a", "input": 1, "output": "b"}]', "item 1: expected an object with the texts"),
    ('[{"instruction": "a", "input": "", "output": ""}]', "nothing to learn"), ("[", "not JSON"),
    ("\udcff", "not UTF-8"), ("", "is empty"),
    ('[{"instruction": "\\ud83d", "input": "", "output": "b"}]', "half a character")])
def test_items_are_checked(tmp_path, content, message):
    path = tmp_path / "items.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ToolkitError, match=message):
        list(item_files.read_items(path))


def test_a_pattern_that_matches_no_file_is_refused(tmp_path):
    with pytest.raises(ToolkitError, match="matches no file"):
        item_files.inputs_of(str(tmp_path / "*.json"))


FLAT = st.dictionaries(st.text(max_size=4), st.text(max_size=9) | st.integers() | st.none() | st.booleans()
                       | st.lists(st.text(max_size=5) | st.integers(), max_size=4), min_size=1, max_size=5)


def test_written_items_are_the_bytes_of_the_whole_list(tmp_path):
    path = tmp_path / "items.json"

    @settings(deadline=None)
    @given(st.lists(FLAT, max_size=4))
    def check(items):
        item_files.write_items(path, iter(items))
        assert path.read_bytes() == json.dumps(items, ensure_ascii=False, indent=4).encode()

    check()
