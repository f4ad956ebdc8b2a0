"""csv -> json: nothing lost, nothing changed, and the official converter's losses on request."""

import csv
import json
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess import mmlu_cmmlu_csv2json
from preprocess.exam import exam_csv
from preprocess.exam.questions import read_items
from research_internlm.data import choice
from research_internlm.shared.errors import ToolkitError

CMMLU_HEADER = ",Question,A,B,C,D,Answer\n"
INSTRUCTION = ("Here is a question about college physics, the correct answer is one of the options A/B/C/D. "
               "Please select the correct option and answer the question with 'The right option is'.")


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def convert(tmp_path, *flags):
    output = tmp_path / "out.json"
    arguments = ["--output", str(output), *flags]
    for source in ("mmlu", "cmmlu"):
        if (tmp_path / source).exists():
            arguments += [f"--{source}_dir", str(tmp_path / source)]
    mmlu_cmmlu_csv2json.main(arguments)
    manifest = json.loads((tmp_path / "out.json.manifest.json").read_text("utf-8"))
    return json.loads(output.read_text("utf-8")), manifest


def test_one_row_gives_the_contest_strings(tmp_path):
    put(tmp_path / "mmlu/test/college_physics_test.csv", 'What is F?,"m,a",mv,None,1.50,A\n')
    items, manifest = convert(tmp_path)
    assert items == [{
        "instruction": INSTRUCTION,
        "input": "Question: What is F? \nA.m,a\nB.mv\nC.None\nD.1.50",
        "output": "The right option is A.",
        "source": "mmlu", "subject": "college_physics", "split": "test",
        "file": "mmlu/test/college_physics_test.csv", "row": 1,
        "question": "What is F?", "options": ["m,a", "mv", "None", "1.50"], "answer": "A",
    }]
    assert list(items[0])[:3] == ["instruction", "input", "output"]
    assert manifest["counts"] == {"in": 1, "out": 1, "dropped": 0}
    assert manifest["absent_splits"] == {"mmlu": ["dev", "val"]}
    assert manifest["rows_per_category"] == {"mmlu/college_physics": 1}


def test_cells_survive_unchanged(tmp_path):
    cells = ["TRUE", " leading", 'say ""hi""', "line\nbreak\r\nand\nA.more", "nan", "NA", "1.50", "007"]
    rows = "".join(f'"{cell}",x,"{cell}",y,z,B\n' for cell in cells)
    put(tmp_path / "mmlu/dev/a_dev.csv", b"\xef\xbb\xbf" + rows.encode())
    put(tmp_path / "cmmlu/dev/a.csv", CMMLU_HEADER + "0,题,甲, NA ,1e5,None,D\n")
    items, manifest = convert(tmp_path)
    expected = {cell.replace('""', '"') for cell in cells}
    assert {item["question"] for item in items if item["source"] == "mmlu"} == expected
    assert {item["options"][1] for item in items if item["source"] == "mmlu"} == expected
    assert items[0]["options"] == ["甲", " NA ", "1e5", "None"]  # CMMLU stands first
    assert manifest["categories"] == 2  # the same subject, two sources


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1
).filter(str.strip), min_size=5, max_size=5), min_size=1, max_size=4))
def test_any_text_round_trips(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("trip") / "x_test.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([*cells, "C"] for cells in table)
    faults = []
    [read] = exam_csv.read_file(path, "mmlu", "test", faults)
    assert not faults
    assert [[row.question, *row.options] for row in read.rows] == table


def test_categories_are_ordered_and_shuffled_by_seed(tmp_path):
    for name in ("b", "a"):
        put(tmp_path / f"mmlu/test/{name}_test.csv", "".join(f"q{i},1,2,3,4,A\n" for i in range(20)))
    put(tmp_path / "cmmlu/dev/z.csv", CMMLU_HEADER + "0,题,1,2,3,4,A\n")
    first, _ = convert(tmp_path)
    again, _ = convert(tmp_path, "--overwrite")
    other, _ = convert(tmp_path, "--overwrite", "--seed", "1")
    assert [item["subject"] for item in first] == ["z"] + ["a"] * 20 + ["b"] * 20
    assert first == again != other
    assert sorted(item["row"] for item in first[1:21]) == list(range(1, 21))
    assert [item["row"] for item in first[1:21]] != list(range(1, 21))


def test_duplicates_are_told_apart(tmp_path):
    put(tmp_path / "mmlu/dev/a_dev.csv", "q,1,2,3,4,A\nq,1,2,3,4,A\nq,4,3,2,1,A\nother,1,2,3,4,A\n")
    put(tmp_path / "mmlu/test/a_test.csv", "q,5,6,7,8,A\nother,2,1,3,4,B\nother,1,2,3,4,C\n")
    _, manifest = convert(tmp_path)
    assert manifest["duplicates"] == {
        "exact": {"count": 1, "groups": [["mmlu/dev/a_dev.csv:1", "mmlu/dev/a_dev.csv:2"]]},
        "conflicting": {"count": 4, "groups": [
            ["mmlu/dev/a_dev.csv:1", "mmlu/dev/a_dev.csv:2", "mmlu/dev/a_dev.csv:3"],
            ["mmlu/dev/a_dev.csv:4", "mmlu/test/a_test.csv:2", "mmlu/test/a_test.csv:3"]]},
    }


def test_category_without_a_split_is_reported(tmp_path, capsys):
    put(tmp_path / "mmlu/dev/a_dev.csv", "q,1,2,3,4,A\n")
    put(tmp_path / "mmlu/test/b_test.csv", "q,1,2,3,4,A\n")
    _, manifest = convert(tmp_path)
    assert manifest["categories_missing_a_split"] == {"mmlu/a": ["test"], "mmlu/b": ["dev"]}
    assert "no val/" in capsys.readouterr().out


@pytest.mark.parametrize(("files", "message"), [
    ({"mmlu/test/a_test.csv": "q,1,2,3,4,A\nq,1,2,3,4,E\n"}, "a_test.csv line 2: answer 'E' is not one"),
    ({"mmlu/test/a_test.csv": "q,1,2,3,4, A\n"}, "answer ' A' is not one of"),
    ({"mmlu/test/a_test.csv": 'q,1,2,3,4,A\n"q\nq",1,,3,4,A\n'}, "line 2: option B is empty"),
    ({"mmlu/test/a_test.csv": "q,1,2,3, ,A\n"}, "option D is empty"),
    ({"mmlu/test/a_test.csv": "q,1,2,3,A\n"}, "line 1: 5 cells"),
    ({"mmlu/test/a_test.csv": "q,1,2,3,4,5,A\nq,1,2,A\n"}, "2 faulty MMLU rows"),
    ({"mmlu/test/a_test.csv": ""}, "is empty"),
    ({"mmlu/test/a_test.csv": "\n\n"}, "holds no row"),
    ({"mmlu/test/a_test.csv": b"q,1,2,3,4,A\nq,\xff,2,3,4,A\n"}, "byte 0xff at offset 14 (line 2)"),
    ({"mmlu/test/a_test.csv": 'q,"1,2,3,4,A\n'}, "not csv"),
    ({"mmlu/test/a_test.csv": "question,A,B,C,D,answer\nq,1,2,3,4,A\n"}, "is a header row"),
    ({"mmlu/test/a_test.csv": CMMLU_HEADER + "0,q,1,2,3,4,A\n"}, "--cmmlu_dir"),
    ({"mmlu/test/a_test.csv": "q,1,2,3,4,A\n", "mmlu/test/a.csv": "q,1,2,3,4,A\n"}, "are both mmlu/a test"),
    ({"cmmlu/test/a.csv": "q,1,2,3,4,A\n"}, "--mmlu_dir"),
    ({"cmmlu/test/a.csv": "Question,A,B,C,D,Answer\nq,1,2,3,4,A\n"}, "CMMLU files have the header row"),
    ({"cmmlu/test/a.csv": CMMLU_HEADER}, "no question"),
    ({"cmmlu/test/a.csv": CMMLU_HEADER + "0,q,1,2,3,A\n"}, "line 2: 5 cells"),
    ({"mmlu/test/readme.txt": "x"}, "holds no csv file"),
    ({"mmlu/other/a.csv": "x"}, "holds none of dev/, test/, val/"),
    ({}, "neither --mmlu_dir nor --cmmlu_dir"),
])
def test_bad_input_is_one_clear_error(tmp_path, files, message):
    for name, content in files.items():
        put(tmp_path / name, content)
    with pytest.raises(ToolkitError) as caught:
        convert(tmp_path)
    assert message in str(caught.value)
    assert not (tmp_path / "out.json").exists()


def test_command_line_fails_in_one_line(tmp_path, root):
    put(tmp_path / "mmlu/test/a_test.csv", "q,1,2,3,4,E\n")
    command = [sys.executable, "preprocess/mmlu_cmmlu_csv2json.py", "--mmlu_dir", str(tmp_path / "mmlu"),
               "--output", str(tmp_path / "o.json")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["mmlu"]


def test_existing_output_is_kept(tmp_path):
    put(tmp_path / "mmlu/test/a_test.csv", "q,1,2,3,4,A\n")
    put(tmp_path / "out.json", "mine")
    convert(tmp_path)  # without a manifest it could be what an early version was killed over
    assert (tmp_path / "out.json.without_manifest").read_text() == "mine"
    before = (tmp_path / "out.json").read_bytes()
    with pytest.raises(ToolkitError, match="--overwrite"):
        convert(tmp_path, "--seed", "7")
    assert (tmp_path / "out.json").read_bytes() == before


def test_compat_loses_what_the_official_converter_loses(tmp_path):
    put(tmp_path / "mmlu/test/college_physics_test.csv",
        "eaten,1,1,1,1,A\nq1,None,1.50,TRUE, x,B\nq2,b,2,FALSE,nan,C\n")
    put(tmp_path / "cmmlu/test/college_physics.csv", CMMLU_HEADER + "0,题,NA,2,3,4,D\n")
    items, manifest = convert(tmp_path, "--official_compat")
    chinese, english = items[0], {item["input"]: item for item in items[1:]}
    assert chinese == {"instruction": INSTRUCTION, "input": "Question: 题 \nA.nan\nB.2\nC.3\nD.4",
                       "output": "The right option is D."}
    assert english == {text: {"instruction": INSTRUCTION, "input": text,
                              "output": f"The right option is {key}."}
                       for text, key in (("Question: q1 \nA.nan\nB.1.5\nC.True\nD. x", "B"),
                                         ("Question: q2 \nA.b\nB.2.0\nC.False\nD.nan", "C"))}
    assert manifest["official_compat"] is True
    assert manifest["counts"] == {"in": 4, "out": 3, "dropped": 1}
    assert manifest["rows_lost_per_file"] == {"mmlu/test/college_physics_test.csv": 1}
    assert manifest["nan_cells_per_file"] == {"cmmlu/test/college_physics.csv": 1,
                                              "mmlu/test/college_physics_test.csv": 2}
    assert manifest["dropped"][0]["line"] == 1 and "header" in manifest["dropped"][0]["reason"]


def test_our_items_are_read_without_their_prose(tmp_path, monkeypatch):
    put(tmp_path / "mmlu/test/a_test.csv", 'eaten,1,1,1,1,A\n"q \nA.1","x\nB.y",2,3,4,B\n')
    items, manifest = convert(tmp_path)
    monkeypatch.setattr(choice, "parse_choice", None)
    questions, unreadable = read_items(items, "f")
    assert not unreadable
    assert [(question.id, question.options) for question in questions if question.text == "q \nA.1"] == [
        ("mmlu/a/test/2", ("x\nB.y", "2", "3", "4"))]
    assert manifest["wordings"] == ["exam-1"]


def test_compat_names_the_row_where_the_official_converter_crashes(tmp_path):
    put(tmp_path / "mmlu/test/a_test.csv", "eaten,1,1,1,1,A\nq,1,2,3,4,A\nNone,1,2,3,4,A\n")
    with pytest.raises(ToolkitError, match=r"a_test.csv line 3 .*reads the question as nan"):
        convert(tmp_path, "--official_compat")


@pytest.mark.real_data
def test_real_files_lose_nothing(real_data, real_items):
    items = json.loads(real_items.read_text("utf-8"))
    rows = Counter()
    for source in ("mmlu", "cmmlu"):
        for path in sorted((real_data / source).glob("*/*.csv")):
            with open(path, newline="", encoding="utf-8") as file:
                table = list(csv.reader(file))
            for cells in table[1:] if source == "cmmlu" else table:
                rows[(source, *cells[-6:])] += 1
    assert Counter((item["source"], item["question"], *item["options"], item["answer"])
                   for item in items) == rows
    assert len({(item["source"], item["subject"]) for item in items}) == 124
    assert sum(item["split"] == "dev" for item in items) == 285 + 335


@pytest.mark.slow
@pytest.mark.real_data
def test_real_files_match_the_official_converter_byte_for_byte(real_data, tmp_path):
    import pandas

    random.seed(42)
    expected = []
    for source, splits in (("cmmlu", ("dev", "test")), ("mmlu", ("dev", "test", "val"))):
        for name in sorted(path.name for path in (real_data / source / "dev").glob("*.csv")):
            category = []
            for split in splits:
                path = real_data / source / split / name.replace("_dev", f"_{split}")
                if not path.exists():
                    continue
                frame = pandas.read_csv(path)
                if source == "mmlu":
                    frame.columns = ["Question", "A", "B", "C", "D", "Answer"]
                domain = name.replace("_dev", "").replace("_", " ").replace(".csv", "")
                for row in frame.to_dict(orient="records"):
                    options = "".join(f"\n{letter}." + str(row[letter]) for letter in "ABCD")
                    category.append({
                        "instruction": INSTRUCTION.replace("college physics", domain),
                        "input": "Question: " + row["Question"] + " " + options,
                        "output": "The right option is " + row["Answer"] + "."})
            random.shuffle(category)
            expected += category
    mmlu_cmmlu_csv2json.main(["--mmlu_dir", f"{real_data}/mmlu", "--cmmlu_dir", f"{real_data}/cmmlu",
                              "--official_compat", "--output", str(tmp_path / "a.json")])
    assert (tmp_path / "a.json").read_text("utf-8") == json.dumps(expected, ensure_ascii=False, indent=4)
    manifest = json.loads((tmp_path / "a.json.manifest.json").read_text())
    mmlu_files = [f"mmlu/{path.parent.name}/{path.name}" for path in (real_data / "mmlu").glob("*/*.csv")]
    assert manifest["rows_lost_per_file"] == dict.fromkeys(mmlu_files, 1)
