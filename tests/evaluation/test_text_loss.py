"""The loss task on a scripted model: means, intervals, windows, and the difference to a reference."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from research_internlm.evaluation import runner
from research_internlm.evaluation.text_loss import LossTask, mean_loss
from research_internlm.runs.result_files import read_result
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import exam_items
from tests.helpers.finished_run import evaluation_facts

ROOMY = {"seq_length": 4096}


class Losses:
    """A model whose loss of a token is a function of its id."""

    def __init__(self, loss):
        self._loss, self.prompts, self.longest = loss, [], None

    def load(self, longest):
        self.longest = longest
        return self

    def token_losses(self, prompts, describe="loss"):
        self.prompts = prompts
        return [np.array([self._loss(token) for token in prompt[1:]], np.float32) for prompt in prompts]


@pytest.fixture(scope="module")
def items(demo_data):
    return exam_items(demo_data)[:30]


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_mean_and_interval_by_hand():
    # Units of 2, 1 and 3 tokens: sums 2, 4 and 6, mean 12 / 6 = 2; residuals -2, 2 and 0.
    found = mean_loss([np.array([0.5, 1.5]), np.array([4.0]), np.array([1.0, 2.0, 3.0])], "samples")
    error = math.sqrt(3 / 2 * (4 + 4 + 0)) / 6
    assert found["loss"] == 2 and found["perplexity"] == pytest.approx(math.e ** 2)
    assert found["standard_error"] == pytest.approx(error)
    assert found["interval_95"] == pytest.approx([2 - 1.959964 * error, 2 + 1.959964 * error])
    assert (found["tokens"], found["units"], found["unit"]) == (6, 3, "samples")


def test_a_single_unit_has_no_interval():
    assert mean_loss([np.ones(5)], "windows")["interval_95"] is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # Texts whose tokens are alike: an interval from single tokens would cover far less.
    random, covered = np.random.default_rng(0), 0
    for _ in range(300):
        units = [np.full(random.integers(5, 50), random.normal(2, 0.5)) for _ in range(40)]
        low, high = mean_loss(units, "samples")["interval_95"]
        covered += low <= 2 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_a_text_longer_than_the_model_is_cut_and_every_token_counts_once(codec, tmp_path):
    text = "The river runs to the sea. " * 30
    task = LossTask(write(tmp_path / "text.txt", text))
    model = Losses(lambda token: token)
    answers = runner.ask(task, task.items, codec, {"seq_length": 24}, model.load)
    ids = codec.processor.encode(text)
    bos = codec.special["bos"]
    assert all(prompt[0] == bos and len(prompt) <= 24 for prompt in model.prompts) and model.longest == 24
    assert [token for prompt in model.prompts for token in prompt[1:]] == ids
    score = task.score(task.items, answers)
    assert score["file"]["all"]["loss"] == pytest.approx(np.mean(ids))
    assert score["file"]["all"]["units"] == math.ceil(len(ids) / 23)
    assert score["file"]["answers"] is None and score["reference"] is score["difference"] is None


def test_answers_are_told_from_prompts(codec, tmp_path, items):
    task = LossTask(write(tmp_path / "items.json", items))
    newline = codec.special["newline"]
    model = Losses(lambda token: 5.0 if token == newline else 1.0)
    answers = runner.ask(task, task.items, codec, ROOMY, model.load)
    found = task.score(task.items, answers)["file"]
    assert found["all"]["tokens"] == sum(len(prompt) - 1 for prompt in model.prompts)
    assert 0 < found["answers"]["tokens"] < found["all"]["tokens"] and found["answers"]["units"] == 30
    supervised = [token for item, prompt in zip(task.items, model.prompts, strict=True)
                  for token, own in zip(prompt[1:], item.supervised, strict=True) if own]
    expected = np.mean([5.0 if one == newline else 1.0 for one in supervised])
    assert found["answers"]["loss"] == pytest.approx(expected)
    assert task.metrics(task.items, answers, {**task.score(task.items, answers)})["loss"].value == (
        found["answers"]["loss"])
    lines = [*task.lines(task.score(task.items, answers))]
    assert lines[0].startswith("loss of items.json, all tokens: ") and "samples" in lines[1]


def test_a_model_that_knows_the_file_is_found_out(codec, tmp_path, items):
    known, later = write(tmp_path / "train.json", items[:15]), write(tmp_path / "later.json", items[15:])
    seen = {token for item in items[:15] for token in codec.processor.encode(item["output"])}
    model = Losses(lambda token: (0.2 if token in seen else 4.0) + token % 7 * 0.01)
    for file, reference, verdict in ((known, later, "the model knows the file better than the reference"),
                                     (later, known, "the reference is likelier than the file"),
                                     (known, known, "no difference beyond chance")):
        task = LossTask(file, reference)
        result = task.score(task.items, runner.ask(task, task.items, codec, ROOMY, model.load))
        assert [*task.lines(result)][-1].endswith(verdict)
    low, high = result["difference"]["answers"]["interval_95"]
    errors = [result[origin]["answers"]["standard_error"] for origin in ("file", "reference")]
    assert high - low == pytest.approx(2 * 1.959964 * math.hypot(*errors))


def test_a_limit_leaves_both_files(tmp_path, items):
    task = LossTask(write(tmp_path / "train.json", items[:9]), write(tmp_path / "later.json", items[9:12]))
    assert [item.name for item in task.items[:7]] == [
        "file 1", "reference 1", "file 2", "reference 2", "file 3", "reference 3", "file 4"]
    assert len(task.items) == 12


def test_a_result_in_a_run_folder_is_read_again(codec, tmp_path, items):
    task = LossTask(write(tmp_path / "items.json", items), write(tmp_path / "text.txt", "The river runs."))
    model = Losses(lambda token: 1.0)
    evaluated = SimpleNamespace(codec=codec, model_config=ROOMY, load=model.load,
                                facts=lambda: evaluation_facts("x"))
    result = runner.evaluate(task, evaluated, None, started=0).result
    path = tmp_path / "results_loss_x.json"
    path.write_text(json.dumps(result))
    assert read_result(path).file["answers"]["loss"] == 1
    assert result["difference"]["all"] == {"loss": 0.0, "interval_95": None}
    assert result["difference"]["answers"] is None


def test_a_file_without_items_is_refused(tmp_path):
    with pytest.raises(ToolkitError, match=r"none\.json is not a list of items"):
        LossTask(write(tmp_path / "text.txt", "words"), write(tmp_path / "none.json", []))


def test_weights_that_diverged_have_a_loss_too(codec, tmp_path):
    task = LossTask(write(tmp_path / "text.txt", "The river runs to the sea."))
    score = task.score(task.items, runner.ask(task, task.items, codec, ROOMY, Losses(lambda token: 2e4).load))
    assert score["file"]["all"]["loss"] == 2e4 and 1e300 < score["file"]["all"]["perplexity"] < math.inf
