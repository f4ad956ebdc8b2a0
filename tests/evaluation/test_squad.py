"""SQuAD: reading the file, the official metric, and the contest's against the real EmF1Metric."""

import json
import os
import random
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_internlm.evaluation import contest_metric, official_metric
from research_internlm.evaluation.squad import (
    contest_questions,
    load_predictions,
    load_squad,
    score_predictions,
)
from research_internlm.shared.errors import ToolkitError


def entry(name, *answers, **more):
    golds = [{"text": answer, "answer_start": 0} for answer in answers]
    return {"id": name, "question": f"{name}?", "answers": golds, **more}


def squad_json(*paragraphs):
    return {"version": "1.1", "data": [
        {"title": "t", "paragraphs": [{"context": f"passage {i}", "qas": qas}]}
        for i, qas in enumerate(paragraphs)]}


@pytest.fixture
def write(tmp_path):
    def write(value):
        path = tmp_path / "file.json"
        path.write_text(json.dumps(value), encoding="utf-8")
        return path
    return write


# The official metric. Values by hand from the definition.

@pytest.mark.parametrize(("prediction", "answers", "f1", "em"), [
    ("Denver Broncos.", ["Denver Broncos"], 1, 1),
    ("the Denver Broncos", ["Denver Broncos"], 1, 1),
    ("Broncos Denver", ["Denver Broncos"], 1, 0),
    ("apple pie", ["banana split"], 0, 0),
    ("Super-Bowl", ["Super Bowl"], 0, 0),  # punctuation goes, no space comes: "superbowl"
    ("A-the", ["Athe"], 1, 1),  # and it goes before the articles
    ("24–10", ["2410"], 0, 0),  # the en dash is not ASCII
    ("red red blue", ["red blue blue"], 2 / 3, 0),  # bags: one red and one blue are shared
    ("gold", ["red", "gold", "the gold coin"], 1, 1),
    ("", ["red"], 0, 0),
    ("", ["The"], 0, 1),  # both normalise to nothing
    ("  Red\t\nBlue ", ["red blue"], 1, 1),
    ("another theme", ["other me"], 0, 0),  # articles only as whole words
])
def test_official_golden(prediction, answers, f1, em):
    assert official_metric.score_answer(prediction, answers) == pytest.approx((f1, em))


# The contest's metric. Values by hand; the first five are MindFormers' EmF1Metric's too.

@pytest.mark.parametrize(("prediction", "answer", "f1", "em"), [
    ("the Denver Broncos", "Denver Broncos", 3 / 4, 0),  # 3 of 5 segments and 3 of 3
    ("Denver Broncos.", "Denver Broncos", 6 / 7, 0),
    ("apple pie", "banana split", 1 / 3, 0),  # the space is a segment
    ("Broncos Denver", "Denver Broncos", 1 / 3, 0),
    ("Super-Bowl", "Super Bowl", 0, 0),
    ("郑州市。", "郑州市", 1, 1),
    ("郑州", "郑州市", 4 / 5, 0),
    (" DENVER\nBroncos", "denver", 1, 1),  # only the first line
    ("", "denver", 0, 0),
    ("", "-", 0, 1),  # both are empty without punctuation
    ("yes -", "yes", 2 / 3, 0),  # the space before the dropped dash stays
])
def test_contest_golden(prediction, answer, f1, em):
    assert contest_metric.score_answer(prediction, answer) == pytest.approx((f1, em))


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """F1 and EM of one pair as fractions, by MindFormers' own class."""
    os.environ.setdefault("LOG_MF_PATH", str(tmp_path_factory.mktemp("log")))
    from mindformers.core.metric.metric import EmF1Metric

    def score(prediction, answer):
        metric = EmF1Metric()
        metric.clear()
        metric.update([prediction], [answer])
        result = metric.eval()
        return result["F1"] / 100, result["Em"] / 100
    return score


def random_texts(count):
    rng = random.Random(7)
    pieces = [" ", "\n", "-", "…", "……", "，", "。", "'", ".", ",", "?", "!", "the", "Denver", "Broncos",
              "2016", "3.5%", "北京", "清华大学", "的", "é", "ß", "İ", "\t", "\u3000", "\u4e00", "\u9fa5",
              "\u9fa6", "A"]
    return ["".join(rng.choices(pieces, k=rng.randrange(8))) for _ in range(count)]


@pytest.mark.model
def test_contest_equals_emf1metric_on_random_texts(upstream, capfd):
    texts = random_texts(1200)
    for prediction, answer in zip(texts[::2], texts[1::2], strict=True):
        assert contest_metric.score_answer(prediction, answer) == pytest.approx(
            upstream(prediction, answer), abs=1e-12), (prediction, answer)


@pytest.mark.model
@pytest.mark.real_data
def test_contest_equals_emf1metric_on_real_texts(upstream, real_data, capfd):
    rng = random.Random(3)
    questions = contest_questions(load_squad(real_data / "squad" / "dev-v1.1-slice.json"))
    pairs = 0
    for question in questions:
        for prediction in (rng.choice(question.answers) + rng.choice(["", ".", " in the end", "\nand"]),
                           question.passage[:rng.randrange(60)]):
            assert contest_metric.score_answer(prediction, question.answers[0]) == pytest.approx(
                upstream(prediction, question.answers[0]), abs=1e-12)
            pairs += 1
    assert pairs == 2 * 161  # 54 + 49 + 58 paragraphs


def reference_f1(prediction, gold):
    """Bag-of-words F1 by removing shared words one at a time; normalisation step by step."""
    def words(text):
        kept = "".join(c for c in text.lower() if c not in r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~""")
        return re.sub(r"\b(the|an|a)\b", " ", kept).split()
    left, right = words(prediction), words(gold)
    rest = list(right)
    shared = 0
    for word in left:
        if word in rest:
            rest.remove(word)
            shared += 1
    # 2PR / (P + R) with P = shared / left and R = shared / right.
    return (2 * shared / (len(left) + len(right)) if shared else 0.0), float(left == right)


english = st.lists(
    st.sampled_from(["the", "a", "An", "cat", "Cat", "dog", " ", "  ", "-", ".", "'", "–", "é", "\n"]),
    max_size=8).map("".join)


@given(english, st.lists(english, min_size=1, max_size=3))
def test_official_equals_a_second_implementation(prediction, golds):
    pairs = [reference_f1(prediction, gold) for gold in golds]
    expected = max(f1 for f1, _ in pairs), max(em for _, em in pairs)
    assert official_metric.score_answer(prediction, golds) == pytest.approx(expected, abs=1e-12)


# Reading files.

def test_questions_are_read_in_order(write):
    questions = load_squad(write(squad_json([entry("a", "x", "y"), entry("b", "z")], [], [entry("c", "w")])))
    assert [(q.id, q.passage, q.text, q.answers, q.first_in_paragraph) for q in questions] == [
        ("a", "passage 0", "a?", ("x", "y"), True),
        ("b", "passage 0", "b?", ("z",), False),
        ("c", "passage 2", "c?", ("w",), True),
    ]
    assert [q.id for q in contest_questions(questions)] == ["a", "c"]


@pytest.mark.real_data
def test_real_slice(real_data):
    questions = load_squad(real_data / "squad" / "dev-v1.1-slice.json")
    assert (len(questions), len(contest_questions(questions))) == (1325, 161)  # 810 + 247 + 268 questions


@pytest.mark.parametrize(("value", "said"), [
    ([], "not SQuAD v1.1 JSON"),
    ({"data": [{"paragraphs": [{"qas": [{}]}]}]}, "not SQuAD v1.1 JSON.*'answers'"),
    ({"data": []}, "holds no questions"),
    (squad_json([]), "holds no questions"),
    (squad_json([entry("a")]), "question a has no answers"),
    (squad_json([entry("a", "x", is_impossible=False)]), "SQuAD v2"),
    (squad_json([entry("a", "x")], [entry("a", "y")]), "id a occurs twice"),
    (squad_json([entry("a", 3)]), "must be text"),
])
def test_bad_squad_files_are_named(write, value, said):
    with pytest.raises(ToolkitError, match=said):
        load_squad(write(value))


@pytest.mark.parametrize(("value", "said"), [
    ([{"id": "a"}], "holds a list; it must be one JSON object"),
    ({"a": "x", "b": None}, "NoneType for question b"),
    ({"a": ["x"]}, "list for question a"),
])
def test_bad_prediction_files_are_named(write, value, said):
    with pytest.raises(ToolkitError, match=said):
        load_predictions(write(value))


def test_two_predictions_for_one_question_are_refused(tmp_path):
    (tmp_path / "p.json").write_text('{"a": "x", "a": "y"}')
    with pytest.raises(ToolkitError, match="has the key 'a' twice"):
        load_predictions(tmp_path / "p.json")


# Both metrics over a file.

def test_both_metrics_over_their_own_questions(write):
    questions = load_squad(write(squad_json(
        [entry("a", "Broncos", "Denver Broncos"), entry("b", "gold")],
        [entry("c", "red")],
        [entry("d", "-")])))
    predictions = load_predictions(write({"a": "Denver Broncos.", "b": "gold", "zz": "blue"}))
    scored = score_predictions(questions, predictions)
    # By hand. Official: a and b right, c and d unanswered. Contest asks a (1 shared of 4 and 1 segments:
    # F1 0.4), c (0) and d, where no answer equals the empty rest of "-".
    assert scored["official"] == {"f1": pytest.approx(50), "em": pytest.approx(50), "total": 4, "missing": 2}
    assert scored["contest"] == {
        "f1": pytest.approx(40 / 3), "em": pytest.approx(100 / 3), "total": 3, "missing": 2}
    assert scored["missing_ids"] == ["c", "d"]
    assert scored["unknown_ids"] == ["zz"]
    assert scored["warnings"] == ["2 of 4 questions have no prediction and score 0 officially",
                                  "1 of 3 predictions belong to no question of the file and are not scored"]


def test_complete_predictions_warn_of_nothing(write):
    questions = load_squad(write(squad_json([entry("a", "x")])))
    scored = score_predictions(questions, {"a": "x"})
    assert (scored["warnings"], scored["missing_ids"], scored["unknown_ids"]) == ([], [], [])
    assert scored["official"]["em"] == scored["contest"]["f1"] == 100


def test_no_questions_is_an_error():
    with pytest.raises(ToolkitError, match="no questions to score"):
        score_predictions([], {})


@pytest.mark.slow
def test_scoring_is_quiet_and_needs_no_mindspore(tmp_path):
    code = ("import sys; sys.modules['mindspore'] = sys.modules['mindformers'] = None\n"
            "from research_internlm.evaluation import answers, mmlu, squad\n"
            "question = squad.SquadQuestion('a', 'p', 't', ('Denver Broncos',), True)\n"
            "print(squad.score_predictions([question], {'a': 'Denver'})['contest']['f1'])")
    # No compiled files: jieba's warnings come up when it is compiled, as on a fresh machine.
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True,
                          check=True, env={**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)})
    assert done.stderr == ""
    assert float(done.stdout) == pytest.approx(50)  # 1 shared of 1 and 3 segments
