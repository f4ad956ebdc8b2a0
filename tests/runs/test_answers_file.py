"""answers.jsonl: whole lines only, steps once each, and what continues a run leaves of it."""

import json

import pytest

from research_internlm import logs
from research_internlm.runs.answers_file import (
    Answer,
    StepAnswers,
    append,
    drop_after,
    examples,
    read_answers,
    side_by_side,
)
from research_internlm.shared.errors import ToolkitError


def answer(text, question="你是谁？", kind=None, passed=None):
    return Answer(messages=[{"role": "user", "content": question}], answer=text, ended=True, kind=kind,
                  passed=passed)


def line(step, *answers):
    return StepAnswers(step=step, seconds=0.5, time="2026-11-26T03:00:00+00:00",
                       answers=list(answers) or [answer(f"answer {step}")])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "answers.jsonl"
    for step in (0, 12, 24):
        append(path, line(step))
    return path


def test_lines_are_read_as_they_were_written(path):
    assert read_answers(path) == [line(0), line(12), line(24)]
    assert json.loads(path.read_text().splitlines()[0])["answers"][0]["answer"] == "answer 0"


@pytest.mark.parametrize("torn", [b'{"step": 36', '{"step": 36, "answers": ["你'.encode()[:-1], b"\xff"])
def test_a_torn_last_line_is_left_out_and_taken_out(path, torn):
    with open(path, "ab") as file:
        file.write(torn)
    assert [found.step for found in read_answers(path)] == [0, 12, 24]
    drop_after(path, 12)
    append(path, line(24, answer("again")))
    assert [found.step for found in read_answers(path)] == [0, 12, 24]
    assert read_answers(path)[-1].answers[0].answer == "again"


def test_a_run_that_starts_anew_keeps_no_line(path):
    drop_after(path, 0)
    assert read_answers(path) == [] and not path.exists()


def test_a_line_of_another_form_is_refused_by_its_number(path):
    path.write_text(path.read_text() + '{"step": -1}\n')
    with pytest.raises(ToolkitError, match=r"line 4 of .*answers\.jsonl is not valid: step is -1"):
        read_answers(path)


def test_steps_stand_side_by_side(path):
    append(path, line(36, answer("x, \"y\"", "Another?")))
    assert side_by_side(read_answers(path)).splitlines() == [
        "question,step 0,step 12,step 24,step 36", "你是谁？,answer 0,answer 12,answer 24,",
        'Another?,,,,"x, ""y"""']


def test_logs_shows_a_few_questions_of_each_kind_with_every_step(path, tmp_path):
    judged = [answer("a", f"id {n}", "identity", passed=n < 2) for n in range(5)]
    judged += [answer("a", f"general {n}", "general", passed=n > 0) for n in range(5)]
    text = "\n".join(logs.describe_answers([line(0, *judged), line(12, *judged)]))
    assert "step 12: identity 2 of 5 right, brought up in 1 of 5 general answers" in text
    assert "answers cost 1.0 s in 2 round(s) of 10" in text
    assert [shown.question for shown in examples(judged)] == [
        "id 0", "id 1", "id 2", "general 0", "general 1", "general 2"]
    assert text.count("\n  step ") == 2 * 6
