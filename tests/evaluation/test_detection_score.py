"""The seed's table from its counts, and the two readers of answers."""

import json

import pytest

from research_internlm import evaluate
from research_internlm.data.detection import detection_item, read_verdict
from research_internlm.evaluation.detection_score import OTHER, last_number
from tests.helpers.commands import assert_user_error, run_script

# TP, FP, TN, FN, unanswered AI, unanswered human; accuracy, precision, recall, F1 as DAIGT-InternLM's README
# prints them; accuracy with the unanswered as wrong (right answers / all texts, by hand).
SEED = {
    "140 small": ((526, 36, 346, 78, 8, 6), (0.8843813387423936, 0.9359430604982206, 0.8708609271523179,
                                             0.902229845626072), 0.872),
    "140 small-4bit": ((519, 40, 340, 88, 5, 8), (0.8703140830800405, 0.9284436493738819, 0.8550247116968699,
                                                  0.8902229845626072), 0.859),
    "140 large": ((466, 34, 317, 78, 68, 37), (0.8748603351955307, 0.932, 0.8566176470588235,
                                               0.89272030651341), 0.783),
    "140 large-4bit": ((478, 59, 280, 60, 74, 49), (0.8643101482326112, 0.8901303538175046,
                                                    0.8884758364312267, 0.8893023255813953), 0.758),
    "2000 small": ((745, 63, 897, 129, 126, 40), (0.8953107960741549, 0.9220297029702971, 0.8524027459954233,
                                                  0.8858501783590963), 0.821),
    "2000 small-4bit": ((734, 65, 897, 201, 65, 38), (0.8597785977859779, 0.918648310387985,
                                                      0.7850267379679144, 0.8465974625144176), 0.8155),
    "2000 large": ((567, 69, 628, 45, 388, 303), (0.9129106187929718, 0.8915094339622641, 0.9264705882352942,
                                                  0.9086538461538461), 0.5975),
    "2000 large-4bit": ((606, 101, 612, 28, 366, 287), (0.9042316258351893, 0.8571428571428571,
                                                        0.9558359621451105, 0.9038031319910514), 0.609),
}


def files_of(folder, counts, one="So the label is 1", zero="the label is 0", none="I cannot tell."):
    answers = dict(zip(("tp", "fp", "tn", "fn", "no_ai", "no_human"),
                       ((1, one), (0, one), (0, zero), (1, zero), (1, none), (0, none)), strict=True))
    rows = [(f"{name}{number}", *answers[name]) for name, count in zip(answers, counts, strict=True)
            for number in range(count)]
    (folder / "test.json").write_text(json.dumps([{"id": id_, "text": "t", "label": label}
                                                  for id_, label, _ in rows]))
    (folder / "predictions.json").write_text(json.dumps({id_: text for id_, _, text in rows}))
    return ["detection-score", "--test", str(folder / "test.json"), "--predictions",
            str(folder / "predictions.json"), "--output", str(folder / "scores.json")]


@pytest.mark.parametrize("row", SEED)
def test_the_seeds_table_comes_from_its_counts_to_all_digits(tmp_path, row, capsys):
    counts, printed, accuracy = SEED[row]
    evaluate.main([*files_of(tmp_path, counts), "--reader", "last_number"])
    result = json.loads((tmp_path / "scores.json").read_text())
    dropped = result["unanswered_dropped"]
    assert tuple(dropped[key] for key in ("accuracy", "precision", "recall", "f1")) == printed
    assert tuple(dropped["confusion"].values()) == counts[:4]
    assert result["unanswered_wrong"]["accuracy"] == accuracy
    tp, fp, tn, fn, no_ai, no_human = counts
    assert result["unanswered_wrong"]["confusion"] == {"tp": tp, "fp": fp + no_human, "tn": tn,
                                                       "fn": fn + no_ai}
    assert result["counts"] == {
        "total": sum(counts), "ai": tp + fn + no_ai, "human": fp + tn + no_human, "answered": sum(counts[:4]),
        "unanswered": no_ai + no_human, "unanswered_ai": no_ai, "unanswered_human": no_human}
    assert f"{printed[0]:.6f}" in capsys.readouterr().out


def test_verdicts_of_our_own_form_are_the_default(tmp_path):
    evaluate.main(files_of(tmp_path, (3, 1, 2, 1, 1, 0), "AI", "human", "I think it is AI"))
    result = json.loads((tmp_path / "scores.json").read_text())
    assert result["reader"] == "verdict" and result["unanswered_ids"] == ["no_ai0"]
    assert result["unanswered_wrong"]["accuracy"] == 5 / 8


@pytest.mark.parametrize(("text", "verdict", "number"), [
    ("AI", 1, None), (" human\nAI 1", 0, 1), ("AI.", 1, None), ("人类。", 0, None), ("AI-made", None, None),
    ("The text is AI", None, None), ("Human", None, None), ("", None, None), ("AI generated 0", None, 0),
    ("it is 1.0", None, 1), ("0.00 or 1", None, 1), ("scores 0.87", None, OTHER), ("in 2023", None, OTHER)])
def test_readers(text, verdict, number):
    assert (read_verdict(text), last_number(text)) == (verdict, number)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("label", [0, 1])
def test_what_training_teaches_is_what_is_read(language, label):
    assert read_verdict(detection_item("t", label, language)["output"]) == label


def test_missing_unknown_and_other_answers_are_listed(tmp_path, capsys):
    (tmp_path / "t.json").write_text(json.dumps([{"id": number, "text": "t", "label": "1.0"}
                                                 for number in range(3)]))
    (tmp_path / "p.json").write_text(json.dumps({"0": "1", "1": "7", "9": "1"}))
    evaluate.main(["detection-score", "--test", str(tmp_path / "t.json"), "--predictions",
                   str(tmp_path / "p.json"), "--output", str(tmp_path / "o.json"), "--reader", "last_number"])
    result = json.loads((tmp_path / "o.json").read_text())
    assert (result["missing_ids"], result["unknown_ids"], result["other_numbers"]) == (["2"], ["9"], ["1"])
    assert result["unanswered_dropped"]["accuracy"] == 0.5 and result["unanswered_wrong"]["accuracy"] == 1 / 3


@pytest.mark.parametrize(("test", "predictions", "words"), [
    ({}, {}, "is not a list of items"), ([{"id": 1, "text": "t"}], {}, "item 1: expected an object with id"),
    ([{"id": 1, "text": "t", "label": 2}], {}, "label is 2 (0 or 1"),
    ([{"id": 1, "text": "t", "label": 1}] * 2, {}, "the id 1 stands twice"),
    ([{"id": 1, "text": "t", "label": 1}], ["AI"], "is not an object of texts"),
])
def test_wrong_files_end_in_one_line(tmp_path, test, predictions, words):
    (tmp_path / "t.json").write_text(json.dumps(test))
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    done = run_script("research_internlm/evaluate.py", "detection-score", "--test", tmp_path / "t.json",
                      "--predictions", tmp_path / "p.json", "--output", tmp_path / "o.json", check=False)
    assert_user_error(done, words)
    assert not (tmp_path / "o.json").exists()
