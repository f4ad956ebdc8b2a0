"""Tasks on small scripted models of our own protocol: what is asked, how replies are read, and the result."""

import argparse
import json
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from research_internlm import evaluate
from research_internlm.data.choice import LETTERS
from research_internlm.evaluation import runner, tasks
from research_internlm.evaluation.mmlu import MmluTask
from research_internlm.evaluation.squad import SquadTask
from research_internlm.evaluation.task import Task
from research_internlm.shared.errors import ToolkitError
from tests.helpers import finished_run
from tests.helpers.commands import exam_items

ROOMY = {"seq_length": 4096, "max_new_tokens": 40}


class ScriptedModel:
    """Writes the answer of a function of the prompt's text, and scores a candidate by its token id."""

    def __init__(self, codec, answer=None):
        self.codec, self.answer = codec, answer
        self.longest, self.prompts, self.labels = None, [], []

    def load(self, longest):
        self.longest = longest
        return self

    def generate(self, prompts, describe="generate"):
        self.prompts, self.labels = prompts, [describe]
        return [self.codec.processor.encode(self.answer(self.codec.decode(prompt))) for prompt in prompts]

    def next_token_scores(self, prompts, candidates, describe="score"):
        self.prompts, self.labels = prompts, [describe]
        return np.array(candidates, np.float32)


@pytest.fixture(scope="module")
def test_file(demo_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("task") / "test_alpaca_format.json"
    items = exam_items(demo_data)[:6]
    items[0]["input"] = items[0]["input"].replace("Question:", "Question: Well,")  # longer than the others
    path.write_text(json.dumps(items))
    return str(path)


def right_answers(items):
    """A model that knows: the output of the item whose question it finds in the prompt."""
    def answer(prompt):
        (item,) = [item for item in items if item.input in prompt]
        return f"The right option is {item.answer}.\nThe right option is A."
    return answer


def test_a_model_that_knows_scores_full_marks(codec, test_file):
    task = MmluTask(test_file)
    model = ScriptedModel(codec, right_answers(task.items))
    answers = runner.ask(task, task.items, codec, ROOMY, model.load)
    assert task.score(task.items, answers)["overall"]["correct"] == len(task.items)
    assert model.labels == ["mmlu"]
    assert model.prompts == [task.prompt(item, codec) for item in task.items]
    assert model.longest == max(map(len, model.prompts)) + 40


def test_what_is_not_the_sentence_is_unmatched_and_listed(codec, test_file):
    task = MmluTask(test_file)
    model = ScriptedModel(codec, lambda prompt: "B")
    answers = runner.ask(task, task.items[:4], codec, ROOMY, model.load)
    score = task.score(task.items[:4], answers)
    assert (score["overall"]["total"], score["overall"]["unmatched"]) == (4, 4)
    assert [answer["text"] for answer in score["unmatched_answers"]] == ["B"] * 4
    assert [row["letter"] for row in task.predictions(task.items[:4], answers)] == [None] * 4


def test_letters_are_compared_where_training_puts_them(codec, test_file):
    task = MmluTask(test_file, "logits")
    model = ScriptedModel(codec)
    answers = runner.ask(task, task.items, codec, ROOMY, model.load)
    for item, answer, prompt in zip(task.items, answers, model.prompts, strict=True):
        prefix, letter_ids = task.candidates(item, codec)
        assert prompt == task.prompt(item, codec) + prefix
        assert answer.letter == LETTERS[int(np.argmax(letter_ids))]  # the model prefers large ids
    assert task.score(task.items, answers)["mode"] == "logits"
    assert model.longest == max(map(len, model.prompts))


@pytest.mark.parametrize("mode", ["generate", "logits"])
def test_prompts_that_do_not_fit_are_not_asked_but_counted(codec, test_file, mode, capsys):
    task = MmluTask(test_file, mode)
    model = ScriptedModel(codec, right_answers(task.items))
    runner.ask(task, task.items, codec, ROOMY, model.load)
    lengths = list(map(len, model.prompts))
    room = 3 if mode == "generate" else 0
    tight = {"seq_length": max(lengths) - 1 + room, "max_new_tokens": 40, "min_new_tokens": room}
    answers = runner.ask(task, task.items, codec, tight, model.load)
    too_long = lengths.count(max(lengths))
    assert len(model.prompts) == len(lengths) - too_long
    assert [answer.letter is None for answer in answers] == [n == max(lengths) for n in lengths]
    assert (f"{too_long} of {len(lengths)} prompts are longer than {max(lengths) - 1} tokens"
            in capsys.readouterr().out)
    with pytest.raises(ToolkitError, match="every prompt is longer than"):
        runner.ask(task, task.items, codec, {**tight, "seq_length": room + 1}, model.load)


def test_squad_answers_are_the_first_line(codec, demo_data):
    task = SquadTask(str(demo_data / "squad.json"))
    items = task.items[:5]
    model = ScriptedModel(codec, lambda prompt: f"\n{items[len(prompt) % 5].answers[0]}\nand on")
    answers = runner.ask(task, items, codec, ROOMY, model.load)
    assert "\n" not in "".join(answers)
    assert set(answers) <= {item.answers[0] for item in items}
    score = task.score(items, answers)
    assert score["questions"] == "all" and score["official"]["missing"] == 0
    assert list(task.predictions(items, answers)) == [item.id for item in items]
    assert [line.split(":")[0] for line in task.lines(score)] == ["SQuAD contest", "SQuAD official"]


def test_the_contest_s_questions_are_fewer(demo_data):
    every = SquadTask(str(demo_data / "squad.json")).items
    assert SquadTask(str(demo_data / "squad.json"), "contest").items == [
        item for item in every if item.first_in_paragraph] != every


def test_a_result_names_task_version_weights_and_limit(codec, test_file):
    task = MmluTask(test_file)
    model = ScriptedModel(codec, right_answers(task.items))
    evaluated = SimpleNamespace(codec=codec, model_config=ROOMY, load=model.load,
                                facts=lambda: finished_run.evaluation_facts("x"))
    outcome = runner.evaluate(task, evaluated, 2, started=0)
    result, predictions = outcome.result, outcome.predictions
    assert (result["task"], result["mode"], result["limit"]) == ("mmlu", "generate", 2)
    assert result["task_version"] == task.version and result["checkpoint"] == "merged.ckpt"
    assert result["overall"]["total"] == len(predictions) == 2
    assert result["seconds"] > 0 and len(result["test_file_sha256"]) == 64
    (line,) = task.lines(result)
    assert line.startswith("MMLU accuracy 100.00% (2 of 2, 95 % interval ")
    assert line.endswith("unknown, generate")


@dataclass
class EchoTask(Task):
    """A new task: its one option is its field."""

    words: str
    name: ClassVar[str] = "echo"
    version: ClassVar[str] = "echo-1"
    help: ClassVar[str] = "says it again"

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--words", required=True)

    def __post_init__(self):
        self.items = self.words.split()

    def prompt(self, item, codec):
        return codec.processor.encode(item)

    def read_answer(self, item, reply):
        return reply

    def score(self, items, answers):
        return {"same": sum(map(str.__eq__, items, answers))}

    def predictions(self, items, answers):
        return answers

    def facts(self):
        return {}

    def lines(self, result):
        yield f"{result['same']} said again"


def test_a_new_task_is_one_entry_of_the_registry(codec, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evaluate, "TASKS", {**tasks.TASKS, "echo": EchoTask})
    model = ScriptedModel(codec, lambda prompt: prompt)
    monkeypatch.setattr(evaluate.runner, "EvaluatedModel", lambda *_: SimpleNamespace(
        codec=codec, model_config=ROOMY, load=model.load, facts=dict))
    # MindFormers is not needed here; the module that registers with it is imported all the same.
    monkeypatch.setitem(sys.modules, "research_internlm.training.registered", ModuleType("registered"))
    output = tmp_path / "echo.json"
    assert evaluate.main(["echo", "--words", "Lyon Milan", "--config", "c", "--load_checkpoint", "p",
                          "--model_file", "m", "--output", str(output)]) == 0
    assert json.loads(output.read_text())["same"] == 2
    assert json.loads(output.with_suffix(".predictions.json").read_text()) == ["Lyon", "Milan"]
    assert capsys.readouterr().out == "2 said again\n"


def test_answers_need_a_length(codec, test_file):
    task = MmluTask(test_file)
    model = ScriptedModel(codec, right_answers(task.items))
    with pytest.raises(ToolkitError, match="max_new_tokens is None, but has to be a whole number"):
        runner.ask(task, task.items[:1], codec, {"seq_length": ROOMY["seq_length"]}, model.load)
