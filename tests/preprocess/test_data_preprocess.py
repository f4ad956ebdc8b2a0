"""Orderings and splits of whole files: counts conserve, letters follow their texts, nothing crosses."""

import json
import random
import subprocess
import sys
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess import data_preprocess
from preprocess.exam import splits
from preprocess.exam.orderings import ORDERS
from preprocess.exam.questions import read_items
from research_internlm.data.choice import (
    ChoiceQuestion,
    choice_input,
    choice_instruction,
    choice_output,
    parse_choice_input,
)
from research_internlm.data.manifest import require_own_manifest
from research_internlm.shared import files
from research_internlm.shared.errors import ToolkitError


def item(question="q", options=("w", "x", "y", "z"), answer="A", subject="s", source="mmlu", row=1):
    return {"instruction": choice_instruction(subject.replace("_", " ")),
            "input": choice_input(question, options), "output": choice_output(answer), "source": source,
            "subject": subject, "split": "test", "file": "f", "row": row, "question": question,
            "options": list(options), "answer": answer}


def alpaca_only(full):
    return {key: full[key] for key in ("instruction", "input", "output")}


def categories(*sizes):
    return [item(f"question {size} {row}", subject=f"subject_{place}", row=row)
            for place, size in enumerate(sizes) for row in range(1, size + 1)]


def run(tmp_path, items, *flags):
    (tmp_path / "in.json").write_text(json.dumps(items), "utf-8")
    output = tmp_path / "out"
    data_preprocess.main(["--input", str(tmp_path / "in.json"), "--output_dir", str(output), *flags])
    paths = [output / f"{part}_alpaca_format.json" for part in ("train", "valid", "test")]
    manifests = [json.loads(files.manifest_path(path).read_text("utf-8")) for path in paths]
    return [json.loads(path.read_text("utf-8")) for path in paths], manifests


def test_first_ordering_only_completes_the_output(tmp_path):
    options = ("\nA.tricky", " spaced ", "nan", "\nD.")
    (train, _, _), _ = run(tmp_path, [item("is\nA.it?", options, "B"), item("other")], "--orderings", "6")
    first = train[0]
    assert list(first)[:3] == ["instruction", "input", "output"]
    assert first["input"] == "Question: is\nA.it? \nA.\nA.tricky\nB. spaced \nC.nan\nD.\nD."
    assert first["output"] == "The right option is B. spaced "
    assert (first["id"], first["ordering"], first["split"], first["row"]) == ("mmlu/s/test/1", 1, "test", 1)


def test_the_letter_follows_its_text_and_all_six_orders_differ(tmp_path):
    items = [item(f"q{n}", answer="ABCD"[n % 4]) for n in range(40)]
    parts, _ = run(tmp_path, items, "--valid_per_category", "40")
    shown = {}
    for entry in parts[0] + parts[1]:
        right = {"A": "w", "B": "x", "C": "y", "D": "z"}["ABCD"[int(entry["question"][1:]) % 4]]
        assert entry["options"]["ABCD".index(entry["answer"])] == right
        assert entry["output"] == f"The right option is {entry['answer']}.{right}"
        assert f"\n{entry['answer']}.{right}" in entry["input"]
        shown.setdefault(entry["question"], []).append(entry["input"])
    assert all(len(set(inputs)) == 6 for inputs in shown.values())
    assert Counter(map(len, shown.values())) == {6: 40}


def test_sixth_ordering_is_the_reports_split(tmp_path):
    (train, valid, test), manifests = run(tmp_path, categories(50, 25, 41))
    assert len(train) == 116 * 5
    for part, sizes in ((valid, (20, 20, 20)), (test, (20, 5, 20))):
        assert Counter(entry["subject"] for entry in part) == {
            f"subject_{place}": size for place, size in enumerate(sizes)}
    assert {entry["ordering"] for entry in valid + test} == {6}
    assert len({entry["id"] for entry in valid + test}) == 105
    # ordering by ordering, each in the order of the input
    assert [entry["ordering"] for entry in train] == [turn for turn in range(1, 6) for _ in range(116)]
    assert [entry["row"] for entry in valid[:20]] != list(range(1, 21))  # shuffled
    for manifest in manifests:
        assert manifest["evaluation_kind"] == "reordered_train_questions"
        assert manifest["counts"]["unused"] == 116 - 105
        assert list(manifest["categories_short_of_questions"]) == ["mmlu/subject_1"]


def test_held_out_questions_are_in_no_other_file(tmp_path):
    items = categories(50, 60)
    items.append(item("QUESTION  50 1", subject="subject_1", source="cmmlu"))  # but for case and spaces
    (train, valid, test), manifests = run(tmp_path, items, "--split", "held_out")
    names = [{entry["id"] for entry in part} for part in (train, valid, test)]
    assert sum(map(len, names)) == len(set().union(*names)) == 111
    assert len(train) == 6 * len(names[0])
    assert {entry["ordering"] for entry in valid + test} == {1}
    assert all(entry["output"].endswith(".w") for entry in valid + test)
    assert {manifest["evaluation_kind"] for manifest in manifests} == {"held_out"}
    assert manifests[0]["per_category"]["mmlu/subject_0"] == {
        "questions": 50, "train": 60, "valid": 20, "test": 20}


TEXTS = st.sampled_from(["a", "A", "Ａ", "a ", " a?", "b", "b b", "bb", "c", "d", "e", "以上", "以 上。"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from("xyz")), min_size=1, max_size=40), st.integers(0, 3),
       st.integers(0, 3), st.integers(0, 9))
def test_no_question_text_crosses(drawn, valid_places, test_places, seed):
    questions = [ChoiceQuestion(str(n), "i", text, tuple("wxyz"), "A", "mmlu", subject)
                 for n, (text, subject) in enumerate(drawn)]
    orders = [[ORDERS[0], ORDERS[5]]] * len(questions)
    split = splits.held_out(questions, orders, valid_places, test_places, random.Random(seed))

    def texts(part):  # normalised independently of the code under test
        return {"".join(c for c in unicodedata.normalize("NFKC", entry.question.text).lower() if c.isalnum())
                for entry in part}

    assert not texts(split.train) & texts(split.valid)
    assert not texts(split.train) & texts(split.test)
    assert not texts(split.valid) & texts(split.test)
    assert len(split.train) == 2 * (len(drawn) - len(split.valid) - len(split.test))
    for part, places in ((split.valid, valid_places), (split.test, test_places)):
        assert all(count <= places for count in Counter(entry.question.subject for entry in part).values())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("xyz"), min_size=1, max_size=60), st.integers(0, 9), st.integers(0, 9),
       st.integers(2, 6))
def test_sixth_ordering_conserves_items(subjects, valid_places, test_places, rounds):
    questions = [ChoiceQuestion(str(n), "i", str(n), tuple("wxyz"), "A", "mmlu", subject)
                 for n, subject in enumerate(subjects)]
    orders = [ORDERS[:rounds]] * len(questions)
    split = splits.sixth_ordering(questions, orders, valid_places, test_places, random.Random(0))
    assert len(split.train) == len(questions) * (rounds - 1)
    assert len(split.valid) + len(split.test) + split.unused == len(questions)
    for subject, size in Counter(subjects).items():
        assert sum(entry.question.subject == subject for entry in split.valid) == min(size, valid_places)
        assert sum(entry.question.subject == subject for entry in split.test) == max(
            0, min(size - valid_places, test_places))


def test_questions_that_depend_on_the_order_keep_it(tmp_path):
    items = [*categories(5), item("p", ("w", "x", "y", "all of the above"), row=9),
             item("t", ("w", "w", "w", "x"))]
    (train, valid, _), manifests = run(tmp_path, items)
    assert {tuple(entry["options"]) for entry in train if entry["question"] == "p"} == {
        ("w", "x", "y", "all of the above")}
    assert len(train) == 7 * 5 and len(valid) == 7
    assert manifests[0]["kept_in_original_order"] == {"count": 1, "ids": ["mmlu/s/test/9"]}
    assert manifests[0]["fewer_distinct_orders"] == {"count": 1, "ids": ["mmlu/s/test/1"]}


def test_the_seed_decides(tmp_path):
    runs = [run(tmp_path, categories(30), "--overwrite", "--seed", seed)[0] for seed in ("1", "1", "2")]
    assert runs[0] == runs[1] != runs[2]


def test_alpaca_items_are_taken_apart():
    chinese = item("世界？", ("一", "二", "三", "四"), "D", subject="world_history", source="cmmlu")
    formula = item("3.4+3.6=", ("1", "2", "7", "8"), "C", subject="world_history", source="cmmlu")
    english = item("Who?", ("a", "b\nc", " d", "\nB.e"), "B", subject="world_history")
    listed = [alpaca_only(entry) for entry in (chinese, formula, chinese, item(), english)]
    listed[3]["output"] += "w"
    questions, unreadable = read_items(listed, "f")
    assert not unreadable
    assert [question.category for question in questions] == [("cmmlu", "world_history")] * 3 + [
        ("mmlu", "s"), ("mmlu", "world_history")]
    assert questions[1].options == ("1", "2", "7", "8") and questions[1].answer == "C"
    assert questions[4].options == ("a", "b\nc", " d", "\nB.e")
    assert questions[4].id == "mmlu/world_history/5"


@pytest.mark.parametrize(("text", "readings"), [
    ("Question: q \nA.1\nB.2\nC.3\nD.4", [("q", "1", "2", "3", "4")]),
    ("Question: q \nA.1\nB.2\nC.3\nD.4\nD.5",
     [("q", "1", "2", "3", "4\nD.5"), ("q", "1", "2", "3\nD.4", "5")]),
    ("Question: q\nA.x \nA.1\nB.2\nC.3\nD.4", [("q\nA.x", "1", "2", "3", "4")]),
    ("Question: q\nA.1\nB.2\nC.3\nD.4", []),
    ("q \nA.1\nB.2\nC.3\nD.4", []),
    ("Question: q \nA.1\nC.3\nB.2\nD.4", []),
])
def test_every_reading_is_found(text, readings):
    found = [(question, *options) for question, options in parse_choice_input(text)]
    assert sorted(found) == sorted(readings)


UNREADABLE = {
    "two readings": ({"input": "Question: q \nA.1\nB.2\nC.3\nD.4\nD.5"}, "has 2 readings"),
    "no reading": ({"input": "Question: q"}, "has no reading"),
    "empty option": ({"input": "Question: q \nA.1\nB.2\nC.\nD.4"}, "option is empty"),
    "other instruction": ({"instruction": "Answer:"}, "not the official one"),
    "bad letter": ({"output": "The right option is E."}, "is not 'The right option is X.'"),
    "loose output": ({"output": "The right option is A, surely."}, "is not 'The right option is X.'"),
    "a system prompt": ({"system": "Be brief.", "history": None}, "no place for system,"),
    "no input": ({"input": None}, "has no reading"),
    "text of another option": ({"output": "The right option is A.x"}, "has no reading"),
}


@pytest.mark.parametrize(("change", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_items_stop_or_are_listed(tmp_path, change, reason):
    items = [alpaca_only(entry) for entry in categories(3)]
    items.insert(1, alpaca_only(item()) | change)
    with pytest.raises(ToolkitError, match=f"1 of 4 items cannot be read for certain: item 1: .*{reason}"):
        run(tmp_path, items)
    assert not (tmp_path / "out").exists()
    (train, _, _), manifests = run(tmp_path, items, "--ambiguous", "drop")
    assert len(train) == 15
    assert [entry["index"] for entry in manifests[0]["dropped"]] == [1]
    assert manifests[0]["counts"]["items_in"] == 4


@pytest.mark.parametrize(("change", "reason"), [
    ({"input": "Question: edited"}, "not its question and options"), ({"answer": "E"}, "answer is 'E'"),
    ({"options": ["a"]}, "list of 4 texts"), ({"question": 3}, "question must be text"),
    ({"output": "The right option is B."}, "disagrees with its answer A"),
    ({"subject": None}, "subject must be text"),
])
def test_structured_fields_must_agree(tmp_path, change, reason):
    with pytest.raises(ToolkitError, match=reason):
        run(tmp_path, [item(), item() | change])


def test_files_of_two_runs_are_refused_by_name(tmp_path):
    run(tmp_path, categories(30), "--valid_per_category", "2", "--test_per_category", "2")
    older = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("valid*")}
    run(tmp_path, categories(30), "--valid_per_category", "2", "--test_per_category", "2", "--seed", "7",
        "--overwrite")
    train = tmp_path / "out/train_alpaca_format.json"
    assert require_own_manifest(train).together[train.name] == files.sha256_of(train)
    for name, content in older.items():
        (tmp_path / "out" / name).write_bytes(content)
    with pytest.raises(ToolkitError, match=r"train_alpaca_format.json and valid_alpaca_format.json beside it "
                                           r"come from two runs of preprocess/data_preprocess.py"):
        require_own_manifest(train)
    for path in (tmp_path / "out").glob("valid*"):
        path.unlink()
    assert require_own_manifest(train)  # one alone mixes nothing
    train.write_text("[]")
    with pytest.raises(ToolkitError, match="is not the file that train_alpaca_format"):
        require_own_manifest(train)


def test_json_lines_are_read_as_a_list(tmp_path):
    items = categories(3)
    expected, _ = run(tmp_path, items)
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, items)), "utf-8")
    data_preprocess.main(["--input", str(tmp_path / "in.jsonl"), "--output_dir", str(tmp_path / "lines")])
    assert [json.loads((tmp_path / "lines" / f"{part}_alpaca_format.json").read_text("utf-8"))
            for part in ("train", "valid", "test")] == expected


@pytest.mark.parametrize(("items", "flags", "message"), [
    (categories(3), ["--orderings", "1"], "--orderings must be 2 or more"),
    (categories(3), ["--split", "held_out"], "all of them would be set aside"),
    ([], [], "not a list of items"),
    ({"a": 1}, [], "not a list of items"),
    ([{"input": "x"}], [], "item 0 lacks"),
])
def test_bad_input_is_one_clear_error(tmp_path, items, flags, message):
    with pytest.raises(ToolkitError, match=message):
        run(tmp_path, items, *flags)
    assert not (tmp_path / "out").exists()


def test_command_line_fails_in_one_line_and_keeps_existing_files(tmp_path, root):
    run(tmp_path, categories(3))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    command = [sys.executable, "preprocess/data_preprocess.py", "--input", str(tmp_path / "in.json"),
               "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--overwrite" in done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.slow
@pytest.mark.real_data
def test_real_questions_read_alike_with_and_without_structured_fields(real_items):
    items = json.loads(real_items.read_text("utf-8"))
    structured, refused = read_items(items, "f")
    parsed, ambiguous = read_items([alpaca_only(entry) for entry in items], "f")
    assert not refused and not ambiguous
    for left, right in zip(structured, parsed, strict=True):
        assert (left.category, left.text, left.options, left.answer) == (
            right.category, right.text, right.options, right.answer)
    assert len({question.category for question in parsed}) == 124


def category_sizes(items):
    return Counter((entry["source"], entry["subject"]) for entry in items)


@pytest.mark.slow
@pytest.mark.real_data
def test_real_counts_of_the_sixth_ordering(real_items, tmp_path):
    items = json.loads(real_items.read_text("utf-8"))
    (train, valid, _), manifests = run(tmp_path, items, "--split", "sixth_ordering")
    assert len(train) == 5 * len(items)
    assert category_sizes(valid) == {category: min(size, 20)
                                     for category, size in category_sizes(items).items()}
    assert 450 < manifests[0]["kept_in_original_order"]["count"] < 520


@pytest.mark.slow
@pytest.mark.real_data
def test_real_counts_of_held_out_questions(real_items, real_held_out):
    sizes = category_sizes(json.loads(real_items.read_text("utf-8")))
    train, valid, test, manifest = real_held_out
    sides = [{entry["question"] for entry in part} for part in (train, valid, test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert len(train) == 6 * (sizes.total() - len(valid) - len(test))
    test_sizes = category_sizes(test)
    assert all(test_sizes[category] == 20 for category, size in sizes.items() if size > 60)
    assert 450 < manifest["kept_in_original_order"]["count"] < 520
