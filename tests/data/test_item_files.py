"""Items of alpaca JSON: streamed as the whole file would be read, and checked."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research_internlm.data import item_files
from research_internlm.data.choice import ChoiceQuestion
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
    ('[{"instruction": "\\ud83d", "input": "", "output": "b"}]', "half of a surrogate pair"),
    ('[{"a": 1, "a": 2}]', "the key 'a' twice"), ("[" * 100_000, "nested too deeply"),
    ('[{"instruction": "a", "input": "", "output": "b", "id": "\\ud83d"}]', "half of a surrogate pair")])
def test_items_are_checked(tmp_path, content, message):
    path = tmp_path / "items.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ToolkitError, match=message):
        list(item_files.read_items(path))


ITEM = {"instruction": "Which one is cold?", "input": "", "output": "Blue."}


@pytest.mark.parametrize(("name", "text"), [
    ("items.jsonl", "\n".join(["{}"] * 3)), ("items.jsonl", "\ufeff\n {}\r\n\n{}\r\n{}\r\n\n"),
    ("items.JSONL", "[{},\n{},{}]"), ("items.json", "{}\n{}\n{}\n")])
def test_json_lines_are_the_items_of_a_list(tmp_path, name, text):
    for number in range(3):
        item = {**ITEM, "output": f"Blue\u2028{number}"}
        text = text.replace("{}", json.dumps(item, ensure_ascii=False), 1)
    (tmp_path / name).write_bytes(text.encode())
    assert list(item_files.read_items(tmp_path / name)) == [
        {**ITEM, "output": f"Blue\u2028{number}"} for number in range(3)]


def test_one_line_is_json_lines_by_its_name_only(tmp_path):
    (tmp_path / "items.jsonl").write_text(json.dumps(ITEM))
    assert list(item_files.read_items(tmp_path / "items.jsonl")) == [ITEM]
    (tmp_path / "items.json").write_text(json.dumps(ITEM))
    with pytest.raises(ToolkitError, match="not a list of items"):
        list(item_files.read_items(tmp_path / "items.json"))


@pytest.mark.parametrize(("line", "message"), [
    ('{"a": 1, "a": 2}', "line 2, has the key 'a' twice"), ("{", "line 2, is not JSON"),
    ('{"a": ' + "[" * 100_000, "line 2, is nested too deeply"), ("[1]", "item 2: expected an object"),
    ('{"a": "\\ud83d"}', "line 2, holds the text"), ('{"a": ' + "1" * 5000 + "}", "line 2, holds a number")])
def test_a_line_is_refused_as_a_file_would_be(tmp_path, line, message):
    (tmp_path / "items.jsonl").write_text(f"{json.dumps(ITEM)}\n{line}\n")
    with pytest.raises(ToolkitError, match=message):
        list(item_files.read_items(tmp_path / "items.jsonl"))


def test_an_alpaca_item_may_leave_input_out(tmp_path):
    path = tmp_path / "items.json"
    without = {"instruction": ITEM["instruction"], "output": ITEM["output"]}
    path.write_text(json.dumps([without, {**without, "input": None}, ITEM]))
    assert list(item_files.read_items(path)) == [ITEM] * 3


@pytest.mark.parametrize(("fields", "named"), [
    ({"system": "You are a painter.", "tools": [1], "mood": 0}, "tools, mood"),
    ({"mood": 0}, "mood"), ({"passage": "p", "question": "q"}, "instruction")])
def test_content_that_no_prompt_shows_is_refused_by_name(tmp_path, fields, named):
    path = tmp_path / "items.json"
    path.write_text(json.dumps([ITEM, {**ITEM, **fields}]))
    with pytest.raises(ToolkitError, match=f"item 2: its prompt has no place for {named},"):
        list(item_files.read_items(path))


def test_alpaca_s_system_and_history_are_turns_of_a_conversation(tmp_path):
    path = tmp_path / "items.json"
    path.write_text(json.dumps([{**ITEM, "input": "Now.", "system": "Be short.",
                                 "history": [["Two?", "Red."]]},
                                {**ITEM, "system": "", "history": [["Two?", "Red."], ["One?", "Blue."]]}]))
    assert [[(message["role"], message["content"]) for message in item["messages"]]
            for item in item_files.read_items(path)] == [
        [("system", "Be short."), ("user", "Two?"), ("assistant", "Red."),
         ("user", "Which one is cold?\nNow."), ("assistant", "Blue.")],
        [("user", "Two?"), ("assistant", "Red."), ("user", "One?"), ("assistant", "Blue."),
         ("user", "Which one is cold?"), ("assistant", "Blue.")]]


@pytest.mark.parametrize("name", ["items.json", "items.jsonl"])
def test_every_item_has_its_own_form(tmp_path, name):
    items = [ITEM, {"passage": "p", "question": "q", "output": "o"},
             {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
             {"conversation": [{"system": "", "input": "q", "output": "a"}]},
             {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]
    lines = "\n".join(map(json.dumps, items))
    (tmp_path / name).write_text(lines if name == "items.jsonl" else json.dumps(items))
    read = list(item_files.read_formed(tmp_path / name))
    assert [form for form, _ in read] == ["alpaca", "reading", "openai", "xtuner", "sharegpt"]
    assert [item for _, item in read] == items[:3] + [items[2]] * 2


def test_a_conversation_s_fault_is_named_with_its_file_and_item(tmp_path):
    path = tmp_path / "items.json"
    path.write_text(json.dumps([ITEM, {"messages": [{"role": "tool", "content": "x"}]}]))
    with pytest.raises(ToolkitError, match=r"items\.json, item 2: entry 1 of its messages has the role"):
        list(item_files.read_items(path))


def test_empty_fields_and_notes_of_our_own_items_are_not_refused(tmp_path):
    question = ChoiceQuestion("mmlu/law/test/1", "Choose.", "q", tuple("wxyz"), "B", "mmlu", "law",
                              (("split", "test"), ("file", "f.csv"), ("row", 1)))
    items = [{**ITEM, "system": "", "history": [], "extra": None}, question.item(True, id="x", ordering=2),
             {"passage": "p", "question": "q", "output": "o", "id": "1", "input": ""}]
    item_files.write_items(tmp_path / "items.json", items)
    assert list(item_files.read_items(tmp_path / "items.json")) == items


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


def test_a_pattern_matches_several_files_and_no_manifest(tmp_path):
    for name in ("b.json", "a.json", "a.json.manifest.json"):
        (tmp_path / name).write_text("[]")
    found = item_files.inputs_of(str(tmp_path / "*.json"))
    assert found == [tmp_path / "a.json", tmp_path / "b.json"]
    assert item_files.inputs_of(str(tmp_path / "a.json")) == [tmp_path / "a.json"]
