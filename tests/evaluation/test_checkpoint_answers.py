"""Which checkpoint `internlm answers` takes, and what it says of the others."""

import json

import pytest

from research_internlm import answers
from research_internlm.runs.answers_file import Answer, StepAnswers, append
from research_internlm.shared.errors import ToolkitError
from tests.helpers.run_checkpoints import checkpoint

QUESTIONS = 10  # of each kind


def judged(kind, passed):
    return [Answer(messages=[{"role": "user", "content": f"{kind} {n}"}], answer="a", ended=True, kind=kind,
                   passed=n < passed) for n in range(QUESTIONS)]


@pytest.fixture
def run(tmp_path):
    """Learns the name, then parrots; step 36 was answered, but retention has deleted it."""
    for step, right, clean in ((0, 0, 10), (12, 8, 10), (24, 10, 9), (36, 10, 10), (48, 10, 9), (60, 10, 2)):
        append(tmp_path / "answers.jsonl", StepAnswers(
            step=step, seconds=1.0, time="t",
            answers=[*judged("identity", right), *judged("general", clean)]))
    for step in (12, 24, 48, 60, 72):
        checkpoint(tmp_path, step)
    return tmp_path


def test_the_best_saved_step_is_taken_the_earliest_of_equal_ones(run, capsys):
    assert answers.main([str(run), "--output", str(run / "scores.json")]) == 0
    said = capsys.readouterr().out
    assert "take step 24: checkpoint/rank_0/tiny_rank_0-1_24.ckpt\n" in said
    assert "saved without answers: step(s) 72" in said
    assert "24 *  10 of 10, 100 % (72 to 100)  1 of 10, 10 % (2 to 40)" in said  # Wilson's, by hand
    found = json.loads((run / "scores.json").read_text())
    assert found["take"] == 24 and [step["step"] for step in found["steps"]] == [0, 12, 24, 36, 48, 60]
    assert found["steps"][3]["files"] == [] and found["steps"][5]["parrots"]["count"] == 8


def test_the_adapter_of_the_step_is_named_too(run, capsys):
    folder = run / "checkpoint_trainable/rank_0"
    folder.mkdir(parents=True)
    for step in (12, 24):  # MindFormers' name, cb_cur_ckpoint_file of its callback.py
        (folder / f"tiny_rank_0-trainable_params-1_{step}.ckpt").touch()
    assert answers.main([str(run)]) == 0
    assert ("take step 24: checkpoint/rank_0/tiny_rank_0-1_24.ckpt, "
            "checkpoint_trainable/rank_0/tiny_rank_0-trainable_params-1_24.ckpt\n") in capsys.readouterr().out


def test_one_that_misses_a_bar_is_named_so(run, capsys):
    for step in (24, 48):
        (run / f"checkpoint/rank_0/tiny_rank_0-1_{step}.ckpt").unlink()
    assert answers.main([str(run)]) == 0
    assert "take step 12: checkpoint/rank_0/tiny_rank_0-1_12.ckpt; but it misses the bars" in (
        capsys.readouterr().out)


def test_without_a_saved_step_there_is_nothing_to_take(run, capsys):
    for path in (run / "checkpoint/rank_0").iterdir():
        path.unlink()
    assert answers.main([str(run)]) == 0
    assert "no step with answers was saved" in capsys.readouterr().out


def test_a_run_without_answers_or_held_out_questions_is_refused(run):
    with pytest.raises(ToolkitError, match="is no folder; give the output_dir"):
        answers.main([str(run / "absent")])
    (run / "answers.jsonl").unlink()
    with pytest.raises(ToolkitError, match="has no answers: a training with AnswerMonitor"):
        answers.main([str(run)])
    shown = Answer(messages=[{"role": "user", "content": "q"}], answer="a", ended=False)
    append(run / "answers.jsonl", StepAnswers(step=0, seconds=1.0, time="t", answers=[shown]))
    with pytest.raises(ToolkitError, match="0 identity and 0 general questions at step 0, and a score needs"):
        answers.main([str(run)])
