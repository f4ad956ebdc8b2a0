"""What predict is asked: the same reader and the same refusals as the converter's."""

import json

import pytest

from research_internlm.inference.predict import read_questions
from research_internlm.shared.errors import ToolkitError

ITEM = {"instruction": "Which?", "input": "", "output": "B"}


def file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(("name", "content", "expected"), [
    ("a.json", json.dumps([ITEM, {"instruction": "And?"}]), [("Which?", ""), ("And?", "")]),
    ("a.jsonl", json.dumps({**ITEM, "input": "x", "output": ""}) + "\n", [("Which?", "x")]),
    ("questions.txt", "One?\n\n Two?\n", [("One?", ""), (" Two?", "")]),
])
def test_questions_of_a_file(tmp_path, name, content, expected):
    assert read_questions(file(tmp_path, name, content)) == expected


def test_anything_else_is_the_question_itself():
    assert read_questions("x" * 5000) == [("x" * 5000, "")]
    assert read_questions("a\0b?") == [("a\0b?", "")]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.json", json.dumps([{**ITEM, "system": "Be brief."}]), r"item\(s\) 1 are conversations"),
    ("a.json", '[{"instruction": "a", "instruction": "b"}]', "has the key 'instruction' twice"),
    ("a.json", "[1]", "item 1: expected an object"), ("a.json", "{}", "is not a list of items"),
    ("a.json", '[{"instruction": 5}]', "item 1: expected an object"),
    ("a.json", "[]", "is not a list of items"),
    ("a.json", json.dumps([{"passage": "p", "question": "q"}]), "evaluate.py squad"),
    ("a.json", "[" * 100_000, "nested too deeply"), ("a.txt", b"\xff", "is not UTF-8"),
    ("a.txt", " \n", "holds no question"), ("a.txt", "", "is empty"),
])
def test_a_file_that_is_not_valid_is_named(tmp_path, name, content, message):
    with pytest.raises(ToolkitError, match=message) as error:
        read_questions(file(tmp_path, name, content))
    assert name in str(error.value)


@pytest.mark.parametrize(("data", "message"), [
    ("absent.json", "does not exist"), (".", "is a folder"), ("\udcff?", "is not UTF-8"),
    ("  ", "holds no question")])
def test_what_is_neither_a_file_nor_a_question_is_refused(data, message):
    with pytest.raises(ToolkitError, match=message):
        read_questions(data)
