"""Other forms of exam csv: recognised by their header, an index never taken for a letter, nothing unsaid."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess import mmlu_cmmlu_csv2json
from preprocess.exam import csv_forms, exam_csv
from research_internlm.shared.errors import ToolkitError

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=4, max_size=4)


def put(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def convert(folder, source="mmlu", *flags):
    output = folder / "out.json"
    mmlu_cmmlu_csv2json.main([f"--{source}_dir", str(folder), "--output", str(output), *flags])
    return (json.loads(output.read_text("utf-8")),
            json.loads((folder / "out.json.manifest.json").read_text("utf-8")))


def questions(items):
    return [(item["question"], item["options"], item["answer"], item["subject"]) for item in items]


@pytest.mark.parametrize("choices", [
    """['Six', 'Eight', 'Ten', "it's four"]""", """['Six' 'Eight' 'Ten' "it's four"]""",
    """['Six'\n 'Eight' 'Ten'\n "it's four"]""", """["Six", "Eight", "Ten", "it's four"]"""])
def test_an_export_of_hugging_face(tmp_path, choices):
    put(tmp_path / "test/art_test.csv", ["question", "subject", "choices", "answer"],
        ["How many legs has a spider?", "art", choices, "1"])
    items, manifest = convert(tmp_path)
    assert questions(items) == [
        ("How many legs has a spider?", ["Six", "Eight", "Ten", "it's four"], "B", "art")]
    assert manifest["other_forms"] == {"mmlu/test/art_test.csv": "hugging_face_mmlu"}


def test_a_file_of_several_subjects_is_several_categories(tmp_path):
    four = "['1', '2', '3', '4']"
    put(tmp_path / "test/all.csv", ["question", "subject", "choices", "answer"],
        ["q", "high_school_physics", four, "0"], ["r", "art", four, "3"], ["s", "art", four, "2"])
    items, manifest = convert(tmp_path)
    assert sorted(questions(items)) == [("q", list("1234"), "A", "high_school_physics"),
                                        ("r", list("1234"), "D", "art"), ("s", list("1234"), "C", "art")]
    assert {item["subject"]: "high school physics" in item["instruction"] for item in items} == {
        "high_school_physics": True, "art": False}
    assert manifest["rows_per_file"] == {
        "mmlu/test/all.csv:art": 2, "mmlu/test/all.csv:high_school_physics": 1}
    assert manifest["counts"] == {"in": 3, "out": 3, "dropped": 0}


@given(TEXTS)
def test_any_printed_list_is_read_back(options):
    header = csv_forms.Header(csv_forms.HF_MMLU, {"question": 0, "choices": 1, "answer": 2})
    for text in (str(options), json.dumps(options), str(np.array(options, object))):
        [(_, _, cells, fault)] = csv_forms.normalise(header, [(2, ["q", text, "2"])])
        assert fault is None and cells == ["q", *options, "C"]


def test_option_columns_with_an_index(tmp_path):
    put(tmp_path / "test/art_test.csv", ["question", "A", "B", "C", "D", "answer"],
        ["How many legs has a spider?", "Six", "Eight", "Ten", "Four", "1"])
    assert questions(convert(tmp_path)[0]) == [
        ("How many legs has a spider?", ["Six", "Eight", "Ten", "Four"], "B", "art")]


def test_c_eval_with_its_explanations(tmp_path):
    put(tmp_path / "val/art_val.csv", ["id", "question", *"ABCD", "answer", "explanation"],
        ["0", "蜘蛛有几条腿？", "六", "八", "十", "四", "B", "1. 蜘蛛\n2. 八条腿"],
        ["1", "q", *"1234", "C", ""])
    items, manifest = convert(tmp_path, "cmmlu")
    assert sorted(item["answer"] for item in items) == ["B", "C"]
    assert manifest["explanations_left_out"] == {"cmmlu/val/art_val.csv": 1}


@pytest.mark.parametrize("rows, message", [
    ([["question", "subject", "choices", "answer"], ["q", "s", "['1', '2', '3', '4']", "4"]],
     "line 2: answer '4' is not an index from 0 to 3"),
    ([["question", "subject", "choices", "answer"], ["q", "s", "['1', '2', '3', '4']", "A"],
      ["q", "s", "['1', '2', '3', '4']", "1"]], "line 3: answer '1' .* an index is not taken for a letter"),
    ([["question", "subject", "choices", "answer"], ["q", "s", "['1', '2', '3']", "1"]],
     r"choices \"\['1', '2', '3'\]\" is not a printed list of four texts"),
    ([["question", "subject", "choices", "answer"], ["q", "s", "[1, 2, 3, 4]", "1"]], "not a printed list"),
    ([["question", "subject", "choices", "answer"], ["q", "1"]], "line 2: 2 cells where the header has 4"),
    ([["id", "question", *"ABCD"], ["0", "q", *"1234"]], "C-Eval's test files have none"),
    ([["id", "question", *"ABCD", "answer"], ["0", "q", *"1234", "E"]], "answer 'E' is not one of"),
])
def test_what_is_not_of_the_form_is_refused(tmp_path, rows, message):
    put(tmp_path / "test/x_test.csv", *rows)
    with pytest.raises(ToolkitError, match=message):
        convert(tmp_path)


def test_official_items_come_from_the_original_files_only(tmp_path):
    put(tmp_path / "test/x_test.csv", ["question", *"ABCD", "answer"], ["q", *"1234", "1"])
    with pytest.raises(ToolkitError, match=r"mmlu/test/x_test\.csv is of another form"):
        convert(tmp_path, "mmlu", "--official_compat")


def test_what_is_not_read_is_said(tmp_path, capsys):
    row = ["q", *"1234", "A"]
    for name in ("test/a_test.csv", "test/b_test.CSV", "test/stem/c_test.csv", "auxiliary_train/race.csv",
                 "test/.hidden.csv", "__MACOSX/test/a_test.csv", "dev.tsv", "test/d.parquet", "e.csv.gz",
                 "README.txt"):
        put(tmp_path / name, row)
    items, manifest = convert(tmp_path)
    assert {item["subject"] for item in items} == {"a", "b"}
    left_out = ["dev.tsv", "e.csv.gz", "auxiliary_train/race.csv", "test/d.parquet", "test/stem/c_test.csv"]
    assert manifest["files_not_read"] == {"mmlu": left_out}
    said = capsys.readouterr().out
    assert f"mmlu: 5 file(s) not read (listed in the manifest): {', '.join(left_out)}" in said


def test_a_folder_that_may_not_be_listed_is_not_empty(tmp_path, monkeypatch):
    put(tmp_path / "test/a_test.csv", ["q", *"1234", "A"])

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "iterdir", refused)  # root may list everything
    with pytest.raises(ToolkitError, match="test cannot be listed: Permission denied"):
        exam_csv.read_folder(tmp_path, "mmlu")
