"""The model path with the real MindSpore and MindFormers: train, checkpoint, evaluate, merge, predict.

One tiny training run through run_internlm.py serves all tests of this file.
"""

import json
import re
from importlib import metadata

import numpy as np
import pytest
import yaml

from research_internlm.checkpoints import weight_names
from research_internlm.runs.loss_lines import Record, events
from research_internlm.runs.train_log_file import read_lines
from research_internlm.shared.processes import RUN_MARK
from research_internlm.shared.run_layout import TRAIN_LOG
from tests.helpers.commands import ROOT, assert_user_error, exam_items, run_script
from tests.helpers.warm import run_warm
from tests.helpers.weight_files import hf_release

pytestmark = pytest.mark.model

TRAIN = "research_internlm/run_internlm.py"
EVALUATE = "research_internlm/evaluate.py"
OVERLAY = ("--overlay", "yaml/overlays/cpu_tiny.yaml")
SEQ_LENGTH = 96


@pytest.fixture(scope="module")
def work(demo_data, codec, tmp_path_factory):
    """Two small data sets and the settings of a model that compiles in seconds."""
    folder = tmp_path_factory.mktemp("work")
    choices = [item for item in exam_items(demo_data) if len(codec.encode_text(item["output"])) == 5][:24]
    (folder / "items.json").write_text(json.dumps(choices))
    for name, seq_length in (("train", SEQ_LENGTH), ("valid", SEQ_LENGTH - 1)):
        run_warm("preprocess/alpaca_data_preprocess_v1.py", "--input_glob", folder / "items.json",
                   "--output_file", folder / f"{name}.mindrecord", "--model_file",
                   demo_data / "tokenizer.model", "--seq_length", seq_length)
    return folder


@pytest.fixture(scope="module")
def settings(work):
    manifest = json.loads((work / "train.mindrecord.manifest.json").read_text())
    return (f"model.model_config.vocab_size={manifest['special_ids']['vocab_size']}",
            f"model.model_config.seq_length={SEQ_LENGTH}", "model.model_config.hidden_size=32",
            "model.model_config.num_layers=1", "model.model_config.num_heads=2")


def train(work, output, settings, *more, check=True, start=run_warm):
    return start(
        TRAIN, "--config", "yaml/lora_finetune.yaml", *OVERLAY, "--train_dataset", work / "train.mindrecord",
        "--eval_dataset", work / "valid.mindrecord", "--output_dir", output, "--use_parallel", "False",
        *settings, "runner_config.epochs=2", "eval_step_interval=6",
        "callbacks.CheckpointMonitor.save_checkpoint_steps=6", "lr_schedule.learning_rate=2.0e-2", *more,
        check=check)


# Set by a job system for every process of a machine; of this run they say nothing.
OTHERS = {"MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": "8", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "2229",
          "RANK_ID": "3", "RANK_SIZE": "8"}


@pytest.fixture(scope="module")
def run(work, settings):
    """Output folder and log of one LoRA run, in a new process: it reads OTHERS before MindSpore does."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OTHERS.items():
            patch.setenv(name, value)
        patch.delenv(RUN_MARK, raising=False)
        done = train(work, work / "run", settings, f"tensorboard={{tensorboard_dir: {work / 'curves'}}}",
                     start=run_script)
    return work / "run", done.stdout + done.stderr


def losses(log):
    return [float(line.split("loss:[")[1].split("/")[0]) for line in log.splitlines() if "loss:[" in line]


def test_training_learns_and_logs_what_a_user_needs(run):
    _, log = run
    values = losses(log)
    assert len(values) == 12  # 24 rows / batch 4 x 2 epochs
    assert np.mean(values[-3:]) < np.mean(values[:3])
    for words in ("useful_tokens_per_second", "per_step_time", "lr: ", "Eval result", "loss_scale: 16384"):
        assert words in log


def test_under_the_variables_of_another_job_it_is_a_training_of_one_worker(run):
    output, log = run
    assert "not used: MS_ROLE, MS_WORKER_NUM" in log
    assert json.loads((output / "run.json").read_text())["workers"] == 1
    assert len(read_lines(output / TRAIN_LOG).records) == 12  # all rows: no shard of 8 workers'
    assert [path.name for path in output.glob("checkpoint/rank_*")] == ["rank_0"]


def test_train_log_says_what_the_log_says_unrounded(run):
    output, log = run
    lines = list(read_lines(output / TRAIN_LOG).records.values())
    assert [line.step for line in lines] == list(range(1, 13))
    assert [line.epoch for line in lines] == [1] * 6 + [2] * 6
    assert {line.total_steps for line in lines} == {12}
    assert [round(line.loss, 6) for line in lines] == losses(log)
    text = [event for line in log.splitlines() for event in events(line) if isinstance(event, Record)]
    for exact, printed in zip(lines, text, strict=True):
        assert int(exact.step_ms) == printed.step_ms
        assert exact.learning_rate == pytest.approx(printed.learning_rate, rel=1e-6)
        assert (exact.overflow, exact.loss_scale) == (printed.overflow, printed.loss_scale)
        assert exact.global_norm == pytest.approx(printed.global_norm, rel=1e-5)
        assert exact.peak_memory_bytes is None  # a CPU's is not counted
    tokens = json.loads((output / "run.json").read_text())["data"]["train_dataset"]["tokens"]["total"]
    assert lines[-1].useful_tokens_per_s == pytest.approx(tokens / 6 * 1000 / lines[-1].step_ms, rel=1e-2)
    assert lines[-1].eta_s == 0 < lines[0].eta_s


def test_the_tensorboard_section_writes_mindformers_curves(run, work):
    from tensorboardX.proto.event_pb2 import Event

    [path] = (work / "curves/rank_0").iterdir()
    content, curves = path.read_bytes(), {}
    while content:  # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4)
        end = 12 + int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12:end])
        for value in event.summary.value:
            curves.setdefault(value.tag, {})[event.step] = value.simple_value
        content = content[end + 4:]
    lines = read_lines(run[0] / TRAIN_LOG).records
    assert curves["loss"] == {step: line.loss for step, line in lines.items()}
    assert curves["learning-rate"] == pytest.approx(
        {step: line.learning_rate for step, line in lines.items()}, rel=1e-6)
    assert "grad-norm" in curves


def test_counts_are_printed_and_equal_the_built_model_s(run, settings):
    from research_internlm import recipes
    from research_internlm.model import lora

    output, log = run
    recipe = recipes.load_yaml(output / "resolved_config.yaml")
    count = lora.count_parameters(recipes.model_config(recipe))
    assert f"trainable parameters {count.trainable:,} of {count.base:,}" in log
    # MindFormers counts what the optimizer is given, in millions.
    assert f"Network Parameters: {count.trainable // 10**6} M" in log
    import mindspore

    adapter = next((output / "checkpoint_trainable" / "rank_0").glob("*_6.ckpt"))
    saved = mindspore.load_checkpoint(str(adapter))
    assert sum(value.size for value in saved.values()) == count.trainable
    assert len(saved) == 2 * count.matched


def test_resolved_config_and_run_facts_are_beside_the_checkpoints(run):
    output, _ = run
    resolved = yaml.safe_load((output / "resolved_config.yaml").read_text())
    assert resolved["model"]["model_config"]["pet_config"]["lora_rank"] == 16
    assert resolved["context"]["device_target"] == "CPU"
    facts = json.loads((output / "run.json").read_text())
    assert facts["data"]["train_dataset"]["counts"]["out"] == 24
    assert facts["versions"]["mindformers"] == metadata.version("mindformers")
    assert len(list((output / "checkpoint" / "rank_0").glob("*.ckpt"))) == 2


def test_an_adapter_merged_at_loading_gives_the_adapter_s_logits(run):
    """Merged weights against MindFormers' own unmerged LoRA forward, on the same prompt."""
    done = run_warm("tests/helpers/merged_logits.py", run[0])
    difference, change = map(float, done.stdout.split()[-2:])
    assert difference < 1e-5
    assert change > 1e-3  # the adapter does something


@pytest.mark.parametrize("mode", ["generate", "logits"])
def test_mmlu_evaluation_counts_every_question(run, work, demo_data, settings, mode):
    output, _ = run
    checkpoint = sorted((output / "checkpoint" / "rank_0").glob("*.ckpt"))[-1]
    result_file = work / f"mmlu_{mode}.json"
    run_warm(EVALUATE, "mmlu", "--config", "yaml/predict_mmlu.yaml", *OVERLAY, "--load_checkpoint",
               checkpoint, "--model_file", demo_data / "tokenizer.model", "--test_file", work / "items.json",
               "--mode",
               mode, "--output", result_file, *settings, "model.model_config.seq_length=128",
               "model.model_config.max_new_tokens=4", "--limit", "10")
    result = json.loads(result_file.read_text())
    assert result["overall"]["total"] == 10
    assert result["overall"]["unmatched"] == len(result["unmatched_answers"])
    if mode == "logits":
        assert result["overall"]["unmatched"] == 0
    assert len(json.loads(result_file.with_suffix(".predictions.json").read_text())) == 10


def test_squad_evaluation_scores_both_metrics(run, work, demo_data, settings):
    checkpoint = sorted((run[0] / "checkpoint" / "rank_0").glob("*.ckpt"))[-1]
    result_file = work / "squad.json"
    run_warm(EVALUATE, "squad", "--config", "yaml/predict_eval_squad.yaml", *OVERLAY, "--load_checkpoint",
               checkpoint, "--model_file", demo_data / "tokenizer.model", "--squad_file",
               demo_data / "squad.json", "--output", result_file, *settings,
               "model.model_config.max_new_tokens=3", "--limit", "12")
    result = json.loads(result_file.read_text())
    assert (result["official"]["total"], result["contest"]["total"]) == (12, 4)
    predictions = json.loads(result_file.with_suffix(".predictions.json").read_text())
    questions = (question for article in json.loads((demo_data / "squad.json").read_text())["data"]
                 for paragraph in article["paragraphs"] for question in paragraph["qas"])
    assert list(predictions) == [question["id"] for question in questions][:12]


def test_predict_answers_from_a_file(run, work, demo_data, settings):
    (work / "questions.txt").write_text("What is the capital of France?\n\nWhat is the capital of Peru?\n")
    checkpoint = sorted((run[0] / "checkpoint" / "rank_0").glob("*.ckpt"))[-1]
    run_warm(TRAIN, "--config", "yaml/predict_mmlu.yaml", *OVERLAY, "--run_mode", "predict",
               "--load_checkpoint", checkpoint, "--model_file", demo_data / "tokenizer.model",
               "--predict_data", work / "questions.txt", "--output_dir", work / "predict", *settings,
               "model.model_config.max_new_tokens=4")
    answers = json.loads((work / "predict" / "predictions.json").read_text())
    assert [answer["instruction"] for answer in answers] == [
        "What is the capital of France?", "What is the capital of Peru?"]


def test_eval_reports_the_loss_of_a_checkpoint(run, work, settings):
    checkpoint = sorted((run[0] / "checkpoint" / "rank_0").glob("*.ckpt"))[-1]
    done = train(work, work / "eval", settings, "--run_mode", "eval", "--load_checkpoint", checkpoint)
    assert "PerplexityMetric" in done.stdout + done.stderr


def test_the_loss_audit_s_mean_is_the_trainer_s_own_evaluation_loss(run, work, demo_data, settings):
    """Every row has the same number of labels, so the trainer's mean over batches is the mean over labels."""
    checkpoint = run[0] / "checkpoint" / "rank_0" / "internlm_7b_lora_rank_0-2_6.ckpt"
    output = work / "audit.json"
    done = run_warm("research_internlm/audit.py", "--config", "yaml/predict_mmlu.yaml", *OVERLAY,
                      "--load_checkpoint", checkpoint, "--dataset", work / "valid.mindrecord", "--model_file",
                      demo_data / "tokenizer.model", "--output", output, *settings)
    evaluated = re.findall(r"Eval result: .*?'loss': (?:np\.\w+\()?([\d.]+)", run[1])
    result = json.loads(output.read_text())
    assert result["tuned"]["mean"] == pytest.approx(float(evaluated[-1]), rel=1e-5)
    assert sum(found["count"] for found in result["tuned"]["kinds"].values()) == 24 * 8
    assert "template words" in done.stdout and output.with_suffix(".png").is_file()


@pytest.mark.parametrize(("more", "words"), [
    (("model.model_config.seq_length=64",), ("97-token rows", "65-token rows", "--seq_length 64")),
    (("model.model_config.vocab_size=99",), ("vocabulary of", "vocab_size 99")),
    (("model.model_config.pet_config.target_modules=.*q_proj",), ("matches no cell", "wq, wk, wv, wo")),
    (("model.model_config.use_flash_attention=True",), ("cannot run on a CPU", "use_flash_attention")),
    (("runner_config.sink_mode=True",), ("sink_mode is True on a CPU",)),
    (("--load_checkpoint", "nowhere.ckpt"), ("nowhere.ckpt does not exist",)),
    (("sed=3",), ("unknown key sed (did you mean seed?)",)),
    ((), ("already holds a run", "--resume_training True")),
])
def test_what_cannot_work_is_said_before_anything_is_built(run, work, settings, more, words):
    assert_user_error(train(work, run[0], settings, *more, check=False), *words)


def test_weights_under_hugging_face_s_names_are_refused_until_they_are_converted(work, settings):
    """MindFormers takes none of them and trains the random weights it began with."""
    config = {"type": "InternLMConfig", **{key.rpartition(".")[2]: int(value) for key, value in
                                           (word.split("=") for word in settings)},
              "intermediate_size": 352, "rms_norm_eps": 1e-6, "has_bias": True}
    shapes = weight_names.parameter_shapes(config)
    folder = work / "hf"
    hf_release(folder, config, shapes)
    base = work / "base.ckpt"
    for given, words in ((folder, f"from-hf {folder}"), (folder / "model.safetensors", "from-hf HF_DIR")):
        done = train(work, work / "no", settings, "--load_checkpoint", given,
                     "model.model_config.intermediate_size=352", check=False)
        assert_user_error(done, "weights.py", words)
    assert not (work / "no" / "run.json").exists()
    run_script("research_internlm/weights.py", "from-hf", folder, base)
    # Ends at the next check, the data's.
    done = train(work, work / "no", settings, "--load_checkpoint", base, "--train_dataset", work / "none",
                 "model.model_config.intermediate_size=352", check=False)
    assert_user_error(done, "none does not exist")
    assert "--load_checkpoint" not in done.stderr.strip().splitlines()[-1]


def test_a_checkpoint_of_another_shape_is_refused(run, work, demo_data, settings):
    checkpoint = sorted((run[0] / "checkpoint" / "rank_0").glob("*.ckpt"))[-1]
    done = run_warm(EVALUATE, "mmlu", "--config", "yaml/predict_mmlu.yaml", *OVERLAY, "--load_checkpoint",
                      checkpoint, "--model_file", demo_data / "tokenizer.model", "--test_file",
                      work / "items.json", "--output", work / "no.json", *settings,
                      "model.model_config.num_layers=3", check=False)
    assert_user_error(done, "does not fit the model", "missing: model.layers.")
    assert not (work / "no.json").exists()


def test_nothing_of_the_cpu_adaptation_is_active_on_ascend():
    run_warm("tests/helpers/portable_on_ascend.py", ROOT)
