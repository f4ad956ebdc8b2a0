"""The detection task on scripted models: one prompt for both modes, thresholds, groups, and what it says."""

import json
import random

import numpy as np
import pytest

from research_internlm.data.chat_template import encode
from research_internlm.data.detection import detection_item, fit_text, render_detection, verdict_position
from research_internlm.data.tokens import load_tokenizer
from research_internlm.evaluation import baseline, runner
from research_internlm.evaluation.classification import best_threshold
from research_internlm.evaluation.detection import DetectionTask
from research_internlm.inference.text_codec import TextCodec
from research_internlm.runs.results import DetectionScores
from research_internlm.shared import schema
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import run_script

ROOMY = {"seq_length": 4096, "max_new_tokens": 8}
HUMAN_WORDS = ["river", "garden", "summer", "teacher", "window"]
AI_WORDS = ["moreover", "essential", "crucial", "various", "overall"]


def text_of(label, generator):
    """One word in three tells the class."""
    return " ".join(generator.choice(AI_WORDS if label else HUMAN_WORDS) if generator.random() < 0.33
                    else generator.choice(["the", "and", "of", "city"]) for _ in range(30))


def make(count, seed):
    generator = random.Random(seed)
    made = []
    for number in range(count):
        label, language = number % 2, "zh" if number % 5 == 0 else "en"
        text = text_of(label, generator) + ("今天天气很好" * 3 if language == "zh" else "")
        made.append(detection_item(text, label, language, id=f"{seed}-{number}", prompt=f"p{number % 4}",
                                   source=f"s{label}{number % 3}", words=30, cluster=f"{seed}-{number}",
                                   marks=["blank_before"] if label == 0 and number % 4 == 0 else []))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    for name, count, seed in (("train", 80, 1), ("valid", 40, 2), ("test", 60, 3)):
        (folder / f"{name}.json").write_text(json.dumps(make(count, seed)))
    run_script("scripts/demo/tiny_tokenizer.py", "--corpus", folder / "train.json", "--output",
               folder / "tokenizer.model")
    return folder


@pytest.fixture(scope="module")
def codec(data):
    return TextCodec(data / "tokenizer.model", load_tokenizer(data / "tokenizer.model").vocab_size())


def task_of(data, **options):
    return DetectionTask(str(data / "test.json"), str(data / "train.json"), str(data / "valid.json"),
                         **options)


class Model:
    """Judges by the words it sees; a slope of its own makes it over- or under-confident."""

    def __init__(self, codec, shift=0.0):
        self.codec, self.shift, self.prompts = codec, shift, []

    def load(self, longest):
        return self

    def evidence(self, prompt):
        words = self.codec.decode(prompt).split()
        return sum(words.count(word) for word in AI_WORDS) - sum(words.count(word) for word in HUMAN_WORDS)

    def generate(self, prompts, describe):
        self.prompts = prompts
        return [self.codec.processor.encode("AI" if self.evidence(prompt) > 0 else "human")
                if sum(prompt) % 7 else self.codec.processor.encode("the city") for prompt in prompts]

    def next_token_scores(self, prompts, candidates, describe):
        self.prompts = prompts
        return np.array([[0.0, self.evidence(prompt) + self.shift] for prompt in prompts], np.float32)


def run(task, codec, model, limit=None):
    items = task.items[:limit]
    answers = runner.ask(task, items, codec, ROOMY, model.load)
    result = {"task": task.name, **task.score(items, answers), **task.facts()}
    schema.parse(DetectionScores, result, "the result")
    return result, task.predictions(items, answers)


def test_both_modes_ask_the_prompt_of_training(data, codec):
    likelihood, generate = Model(codec), Model(codec)
    task = task_of(data)
    run(task, codec, likelihood)
    run(task_of(data, mode="generate"), codec, generate)
    assert likelihood.prompts[:60] == generate.prompts
    item = task.items[0]
    whole, supervised = encode(render_detection(item, codec.special.family), codec.processor, codec.special)
    before, verdicts = verdict_position(item["language"], codec.processor)
    assert whole[:supervised.index(True)] + before == likelihood.prompts[0]
    assert whole[len(likelihood.prompts[0])] == verdicts[item["label"]]


def test_likelihood_finds_what_a_shift_hides_by_the_validation_texts(data, codec):
    result, _ = run(task_of(data), codec, Model(codec, shift=30.0))
    assert result["at_one_half"]["accuracy"] == 0.5 and result["unanswered_wrong"]["accuracy"] > 0.95
    assert result["roc_auc"]["auc"] > 0.99 and result["threshold"]["value"] > 0.9
    assert result["threshold"]["validation_texts"] == 40 and result["calibration"]["ece"] > 0.4


def test_threshold_does_not_depend_on_the_test_texts(data, codec, tmp_path):
    turned = [{**item, "label": 1 - item["label"]} for item in json.loads((data / "test.json").read_text())]
    (tmp_path / "turned.json").write_text(json.dumps([
        {key: item[key] for key in ("id", "text", "label")} for item in turned]))
    task = DetectionTask(str(tmp_path / "turned.json"), str(data / "train.json"), str(data / "valid.json"))
    first, _ = run(task_of(data), codec, Model(codec))
    second, _ = run(task, codec, Model(codec))
    assert second["threshold"] == first["threshold"]
    assert second["roc_auc"]["auc"] == pytest.approx(1 - first["roc_auc"]["auc"])
    assert second["baseline"]["surface_marks"] is None


def test_generated_answers_without_a_verdict_count_as_wrong(data, codec):
    result, predictions = run(task_of(data, mode="generate"), codec, Model(codec))
    silent = [row["id"] for row in predictions if row["verdict"] is None]
    assert silent and result["unanswered_ids"] == silent
    assert result["counts"]["unanswered"] == len(silent)
    right = sum(row["verdict"] == row["label"] for row in predictions)
    assert result["unanswered_wrong"]["accuracy"] == right / 60
    assert result["unanswered_dropped"]["accuracy"] == right / (60 - len(silent))
    assert result["roc_auc"] is None and result["threshold"] is None


def test_groups_add_up(data, codec):
    result, _ = run(task_of(data, mode="generate"), codec, Model(codec))
    for key in ("per_source", "per_prompt", "per_length"):
        assert sum(group["texts"] for group in result[key].values()) == 60
        right = sum(group["texts"] * group["accuracy"] for group in result[key].values())
        assert right == pytest.approx(60 * result["unanswered_wrong"]["accuracy"])
    assert set(result["per_length"]) == {"000 to 99 words"}
    assert result["per_source"]["s10"]["accuracy_human"] is None


def test_baselines_stand_beside_every_result(data, codec):
    result, predictions = run(task_of(data, mode="generate"), codec, Model(codec))
    words, marks = result["baseline"]["bag_of_words"], result["baseline"]["surface_marks"]
    assert words["accuracy"] > 0.9 and words["roc_auc"]["auc"] > 0.95 and words["trained_on"] == 80
    # 15 of 30 human texts carry the mark; of the texts without it two thirds are AI.
    assert marks["accuracy"] == 0.75 and marks["roc_auc"]["auc"] == 0.75
    assert all(0 <= row["bag_of_words"] <= 1 for row in predictions)


def test_the_count_of_words_gets_its_threshold_from_the_validation_texts_too(data, codec, tmp_path):
    """Where most training texts are human, its probabilities lie low."""
    train = json.loads((data / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(
        [item for place, item in enumerate(train) if not item["label"] or place % 8 == 1]))
    own = DetectionTask(str(data / "test.json"), str(tmp_path / "train.json"), str(data / "valid.json"))
    words = run(own, codec, Model(codec))[0]["baseline"]["bag_of_words"]
    valid = json.loads((data / "valid.json").read_text())
    assert words["threshold"] == best_threshold(
        [item["label"] for item in valid], baseline.bag_of_words(own._train, valid)) < 0.5
    generate = DetectionTask(str(data / "test.json"), str(tmp_path / "train.json"), mode="generate")
    assert run(generate, codec, Model(codec))[0]["baseline"]["bag_of_words"]["threshold"] == 0.5


def test_weights_are_compared_by_precision_and_recall_and_by_what_each_text_was_called(data, codec):
    task, model = task_of(data), Model(codec, shift=3.0)
    answers = runner.ask(task, task.items, codec, ROOMY, model.load)
    result = task.score(task.items, answers)
    metrics, decisions = task.metrics(task.items, answers, result), task.decisions(task.items, answers)
    labels = {item["id"]: item["label"] for item in task.items[:60]}
    assert decisions.keys() == labels.keys()
    called = [name for name, call in decisions.items() if call == 1]
    right = sum(labels[name] for name in called)
    assert metrics["precision"].value == right / len(called) and metrics["recall"].value == right / 30
    low, high = metrics["recall"].interval_95
    assert low < metrics["recall"].value <= high
    assert metrics["ROC-AUC"].value == result["roc_auc"]["auc"]


def test_a_limit_asks_test_texts_and_says_that_nothing_chose_the_threshold(data, codec):
    result, _ = run(task_of(data), codec, Model(codec), limit=10)
    assert result["counts"]["total"] == 10 and result["threshold"] == {"value": 0.5, "validation_texts": 0}


def test_long_texts_are_cut_as_in_training_and_counted(data, codec):
    model = Model(codec)
    result, _ = run(task_of(data, sample_length=30), codec, model)
    assert max(map(len, model.prompts)) < 30 and sum(result["cut"].values()) > 50


@pytest.mark.parametrize(("how", "length"), [
    ("end", 60), ("end", 61), ("end", 500), ("head_tail", 62), ("head_tail", 67), ("head_tail", 500)])
def test_the_cut_fits_keeps_the_verdict_and_wastes_little(codec, how, length):
    item = detection_item("The city of Lyon, 今天 it’s 🙂. " * 20, 1, "en")
    fitted = fit_text(item, length, how, codec.processor, codec.special)
    ids, supervised = encode(render_detection(fitted), codec.processor, codec.special)
    whole, _ = encode(render_detection(item), codec.processor, codec.special)
    assert len(ids) <= length
    assert (len(ids) >= length - 6) if length < len(whole) else fitted is item
    assert ids[supervised.index(True)] == codec.processor.encode("AI")[0]
    head, _, tail = fitted["text"].partition("\n[...]\n")
    assert item["text"].startswith(head) and item["text"].endswith(tail)
    assert bool(tail) == (how == "head_tail" and length < len(whole))


def test_a_vocabulary_without_the_verdicts_is_refused(demo_data):
    with pytest.raises(ToolkitError, match="does not decide between the verdicts at one token"):
        verdict_position("zh", load_tokenizer(demo_data / "tokenizer.model"))


def test_what_is_missing_is_said_before_a_model_is_loaded(data, tmp_path, monkeypatch):
    with pytest.raises(ToolkitError, match="give --valid_file"):
        DetectionTask(str(data / "test.json"), str(data / "train.json"))
    (tmp_path / "one.json").write_text(json.dumps([{"id": 1, "text": "a", "label": 1}]))
    with pytest.raises(ToolkitError, match="texts of one class"):
        DetectionTask(str(data / "test.json"), str(tmp_path / "one.json"), mode="generate")
    monkeypatch.setattr(baseline, "load_extra", lambda *_: baseline_missing())
    with pytest.raises(ToolkitError, match="pip install"):
        task_of(data)


def baseline_missing():
    from research_internlm.shared.extras import load_extra

    load_extra("no_such_package_here.sub", "detection")


def test_pictures_and_lines(data, codec, tmp_path):
    for mode in ("likelihood", "generate"):
        task = task_of(data, mode=mode)
        result, predictions = run(task, codec, Model(codec))
        task.draw(result, predictions, tmp_path / f"{mode}.json")
        assert (tmp_path / f"{mode}.png").read_bytes().startswith(b"\x89PNG")
        lines = "\n".join(task.lines(result))
        assert "unanswered count as wrong" in lines and "bag_of_words: accuracy" in lines
        assert ("ROC-AUC" in lines.split("beside it")[0]) == (mode == "likelihood")
