"""Packed rows train the same: loss and gradients of the samples apart, with real MindFormers networks."""

import json

import numpy as np
import pytest

from tests.helpers.commands import assert_user_error, convert_items, exam_items
from tests.helpers.warm import run_warm

pytestmark = pytest.mark.model


@pytest.fixture(scope="module", params=["internlm", "internlm2"])
def result(request, tmp_path_factory):
    output = tmp_path_factory.mktemp("packed") / "result.npz"
    run_warm("-m", "tests.helpers.packed_and_unpacked", request.param, output)
    return dict(np.load(output))


@pytest.mark.parametrize("name", ["packed", "at_labels", "spare", "unpacked_at_labels", "compiled",
                                  "accumulated"])
def test_loss_and_gradients_are_those_of_the_samples_apart_under_the_full_head(result, name):
    assert result[f"{name}_loss"] == pytest.approx(result["unpacked_loss"], abs=1e-5)
    largest = np.abs(result["unpacked_gradients"]).max()
    assert largest > 1e-3
    assert np.abs(result[f"{name}_gradients"] - result["unpacked_gradients"]).max() < 1e-5 * max(1, largest)


def test_packed_validation_rows_have_the_loss_of_the_samples_apart(result):
    assert result["packed_evaluation"] == pytest.approx(result["unpacked_evaluation"], abs=1e-5)


def test_without_the_mask_the_loss_is_another(result):
    assert abs(result["leaking_loss"] - result["unpacked_loss"]) > 1e-3


def test_a_changed_sample_changes_no_other(result):
    change = result["change"]
    assert change[0, 13:32].min() > 1e-4
    assert change[0, :13].max() < 1e-6 and change[0, 32:].max() < 1e-6 and change[1].max() < 1e-6


@pytest.fixture(scope="module")
def packed_file(demo_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return convert_items(folder, demo_data / "tokenizer.model", exam_items(demo_data)[:40],
                         "--seq_length", 96, "--pack")


def train(packed_file, output, config, *more, check=True):
    manifest = json.loads(packed_file.with_name(packed_file.name + ".manifest.json").read_text())
    return run_warm(
        "research_internlm/run_internlm.py", "--config", f"yaml/{config}", "--overlay",
        "yaml/overlays/cpu_tiny.yaml", "--train_dataset", packed_file, "--output_dir", output,
        "--use_parallel", "False", "do_eval=False",
        f"model.model_config.vocab_size={manifest['special_ids']['vocab_size']}",
        "model.model_config.seq_length=96", "model.model_config.hidden_size=32", "runner_config.epochs=4",
        "model.model_config.num_layers=1", "lr_schedule.learning_rate=2.0e-2", *more, check=check)


def losses_of(packed_file, output, *more):
    train(packed_file, output, "lora_finetune_packed.yaml", "runner_config.batch_size=2",
          "model.model_config.pet_config.lora_dropout=0.0", *more)
    return [json.loads(line)["loss"] for line in (output / "train_log.jsonl").read_text().splitlines()]


def test_the_trainer_learns_from_packed_rows_and_from_a_batch_in_parts_alike(packed_file, tmp_path):
    losses = losses_of(packed_file, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["train_dataset"]
    assert facts["packed"] and facts["counts"]["samples"] == 40 > facts["counts"]["out"]
    assert len(losses) == 4 * (facts["counts"]["out"] // 2)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05
    parts = losses_of(packed_file, tmp_path / "parts", "runner_wrapper.micro_batches=2",
                      "runner_wrapper.type=AccumulatingTrainOneStepCell")
    assert len(parts) == len(losses)
    assert parts[:8] == pytest.approx(losses[:8], abs=1e-5)  # later ones differ by what rounding adds up to


@pytest.mark.parametrize(("config", "more", "words"), [
    ("lora_finetune.yaml", (), ("is packed", "model.model_config.packed is False", "finetune_packed.yaml")),
    ("lora_finetune_packed.yaml", ("model.model_config.labels_per_row=3",), ("labels_per_row is 3",)),
])
def test_rows_that_would_train_wrongly_are_refused(packed_file, tmp_path, config, more, words):
    assert_user_error(train(packed_file, tmp_path / "run", config, *more, check=False), *words)
