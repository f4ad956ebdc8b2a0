"""AnswerMonitor in a real training: what it answers, that it changes no number, and that resume neither loses
nor doubles a step."""

import json
import shutil

import pytest

from research_internlm.data.identity import mentions
from research_internlm.runs.answers_file import read_answers
from research_internlm.shared.run_layout import ANSWERS, TRAIN_LOG
from tests.helpers.commands import convert_items, exam_items
from tests.helpers.warm import run_warm

pytestmark = pytest.mark.model

TRAIN = "research_internlm/run_internlm.py"
OVERLAY = ("--overlay", "yaml/overlays/cpu_tiny.yaml")
QUESTIONS = ["What is the capital of France?", "Who are you?", "苏州位于哪个省？"]
NEW_TOKENS = 6
STEPS = [0, 5, 6, 10, 12]  # 24 rows / batch 4 x 2 epochs; saves at 6 and 12
OVERLAY_TEXT = f"""
seed: 1
context:
  runtime_num_threads: 1  # with more, MindSpore tries out work partitions, which round differently
callbacks:
  - type: AnswerMonitor
    prompts: {json.dumps(QUESTIONS)}
    every_n_steps: 5
    max_new_tokens: {NEW_TOKENS}
"""


@pytest.fixture(scope="module")
def work(demo_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    convert_items(folder, demo_data / "tokenizer.model", exam_items(demo_data)[:24], "--seq_length", 96)
    (folder / "asks.yaml").write_text(OVERLAY_TEXT)
    return folder


@pytest.fixture(scope="module")
def settings(work):
    manifest = json.loads((work / "train.mindrecord.manifest.json").read_text())
    return (f"model.model_config.vocab_size={manifest['special_ids']['vocab_size']}",
            "model.model_config.seq_length=96", "model.model_config.hidden_size=32",
            "model.model_config.num_layers=1", "model.model_config.num_heads=2")


@pytest.fixture(scope="module")
def train(work, settings, demo_data):
    def run(name, *more):
        run_warm(TRAIN, "--config", "yaml/lora_finetune.yaml", *OVERLAY, "--overlay", work / "asks.yaml",
                 "--train_dataset", work / "train.mindrecord", "--output_dir", work / name, "--use_parallel",
                 "False", "--model_file", demo_data / "tokenizer.model", *settings, "do_eval=False",
                 "runner_config.epochs=2", "callbacks.CheckpointMonitor.save_checkpoint_steps=6",
                 "lr_schedule.learning_rate=4.0e-2", *more)
        return work / name

    return run


@pytest.fixture(scope="module")
def asked(train, work):
    return train("asked", f"tensorboard={{tensorboard_dir: {work / 'curves'}}}")


def losses(run):
    return [json.loads(line)["loss"] for line in (run / TRAIN_LOG).read_text().splitlines()]


def texts(run):
    return {line.step: [answer.answer for answer in line.answers] for line in read_answers(run / ANSWERS)}


def test_it_answers_before_every_n_steps_and_at_each_save(asked, work):
    lines = read_answers(asked / ANSWERS)
    assert [line.step for line in lines] == STEPS
    assert [answer.question for answer in lines[0].answers] == QUESTIONS
    assert lines[0].seconds > 0 and lines[0].answers != lines[-1].answers
    from tensorboardX.proto.event_pb2 import Event

    [path] = (work / "curves/rank_0").iterdir()
    content, shown = path.read_bytes(), {}
    while content:
        end = 12 + int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12:end])
        for value in event.summary.value:
            if value.tag.startswith("answers/1/"):
                shown[event.step] = value.tensor.string_val[0].decode()
        content = content[end + 4:]
    assert {step: text.split("\n\n", 1)[1] for step, text in shown.items()} == {
        step: answers[0] for step, answers in texts(asked).items()}


def test_a_checkpoint_gives_the_answers_of_its_step(asked, work, settings, demo_data):
    """By predict mode, which merges the adapter into a network of its own; step 6 is the resumes' below."""
    (work / "questions.txt").write_text("\n".join(QUESTIONS))
    [checkpoint] = (asked / "checkpoint/rank_0").glob("*-2_6.ckpt")
    run_warm(TRAIN, "--config", "yaml/predict_mmlu.yaml", *OVERLAY, "--run_mode", "predict",
             "--load_checkpoint", checkpoint, "--model_file", demo_data / "tokenizer.model",
             "--predict_data", work / "questions.txt", "--output_dir", work / "predict", *settings,
             f"model.model_config.max_new_tokens={NEW_TOKENS}")
    found = json.loads((work / "predict/predictions.json").read_text())
    assert [answer["prediction"] for answer in found] == texts(asked)[12]


def test_internlm_answers_asks_the_checkpoints_anew(asked, work, demo_data):
    """With the prompts as held-out questions: the same answers as during training, so the same counts."""
    questions = [{"kind": kind, "topic": "t", "language": "en", "wanted": wanted,
                  "messages": [{"role": "user", "content": text}]}
                 for text in QUESTIONS for kind, wanted in (("identity", "name"), ("general", None))]
    said = [word for answer in texts(asked)[12] for word in answer.split() if mentions(answer, [word])]
    names = {f"{what}_{language}": said[0] for what in ("name", "author") for language in ("zh", "en")}
    (work / "q.held_out.json").write_text(json.dumps({"identity": names, "questions": questions}))
    run_warm("research_internlm/answers.py", asked, "--questions", work / "q.held_out.json", "--model_file",
             demo_data / "tokenizer.model", "--max_new_tokens", NEW_TOKENS, "--output", work / "scores.json")
    steps = json.loads((work / "scores.json").read_text())["steps"]
    assert [step["step"] for step in steps] == [6, 12]
    for step in steps:
        wanted = sum(mentions(answer, [said[0]]) for answer in texts(asked)[step["step"]])
        assert step["parrots"]["count"] == wanted
    assert steps[1]["parrots"]["count"] > 0


def test_training_is_the_same_to_the_last_bit_without_it(asked, train):
    """With dropout, whose random numbers a round of answers must not draw."""
    silent = train("silent", "callbacks.AnswerMonitor=null")
    assert not (silent / ANSWERS).exists()
    assert losses(silent) == losses(asked)


@pytest.mark.parametrize("kept", [(0, 5, 6), (0, 5)])
def test_resume_neither_loses_nor_doubles_a_step(asked, train, work, kept):
    """Killed in step 12 after a torn line, or at the save of step 6 before its answers."""
    name = f"resumed{len(kept)}"
    run = shutil.copytree(asked, work / name)
    for path in run.glob("checkpoint*/rank_0/*-2_6.ckpt"):
        path.unlink()
    lines = [line for line in (run / ANSWERS).read_text().splitlines(keepends=True)
             if json.loads(line)["step"] in (*kept, 10)]
    (run / ANSWERS).write_text("".join(lines) + '{"step": 12, "sec')
    train(name, "--resume_training", "True")
    assert [json.loads(line)["step"] for line in (run / ANSWERS).read_text().splitlines()] == STEPS
    assert texts(run)[6] == texts(asked)[6]
