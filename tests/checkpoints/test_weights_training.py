"""From a Hugging Face folder to trained and merged weights, through the real Trainer, in both file forms."""

import json

import numpy as np
import pytest

from research_internlm.checkpoints import hf_config, weight_names
from research_internlm.checkpoints.dtypes import FLAG_TYPES, Entry
from research_internlm.checkpoints.tensor_files import TensorFile, write_tensors
from research_internlm.model.lora import MINDFORMERS_DEFAULTS
from research_internlm.training.command import checkpoint_format
from tests.helpers.commands import assert_user_error, convert_items, exam_items, run_script
from tests.helpers.warm import run_warm

WEIGHTS, TRAIN = "research_internlm/weights.py", "research_internlm/run_internlm.py"
SEQ_LENGTH = 96


@pytest.fixture(scope="module")
def work(demo_data, tmp_path_factory):
    """A data set, and a random InternLM in Hugging Face's form that fits its vocabulary."""
    folder = tmp_path_factory.mktemp("work")
    convert_items(folder, demo_data / "tokenizer.model", exam_items(demo_data)[:8], "--seq_length",
                  SEQ_LENGTH)
    manifest = json.loads((folder / "train.mindrecord.manifest.json").read_text())
    shape = {"type": "InternLMConfig", "hidden_size": 32, "num_layers": 1, "num_heads": 2,
             "intermediate_size": 96, "vocab_size": manifest["special_ids"]["vocab_size"], "has_bias": True,
             "max_position_embedding": SEQ_LENGTH}
    random = np.random.default_rng(0)
    values = {weight_names.to_hf(name): random.normal(0, 0.1, size).astype(np.float32)
              for name, size in weight_names.parameter_shapes(shape).items()}
    (folder / "hf").mkdir()
    write_tensors(folder / "hf" / "model.safetensors",
                  {name: Entry(value.shape, FLAG_TYPES["fp32"]) for name, value in values.items()},
                  lambda name: [values[name]])
    (folder / "hf" / "config.json").write_text(json.dumps(hf_config.from_model_config(shape, "fp32")))
    return folder, [f"model.model_config.{key}={value}" for key, value in shape.items()]


def train(work, base, output, *more, check=True):
    folder, shape = work
    return run_warm(
        TRAIN, "--config", "yaml/lora_finetune.yaml", "--overlay", "yaml/overlays/cpu_tiny.yaml",
        "--train_dataset", folder / "train.mindrecord", "--load_checkpoint", base, "--output_dir", output,
        *shape, f"model.model_config.seq_length={SEQ_LENGTH}", "do_eval=False",
        "lr_schedule.learning_rate=2.0e-2", "runner_config.epochs=1",
        "callbacks.CheckpointMonitor.save_checkpoint_steps=1", "--use_parallel", "False", *more,
        check=check)


@pytest.mark.model
@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_imported_weights_are_trained_from_resumed_and_merged(work, tmp_path, monkeypatch, form):
    folder, _ = work
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")  # all these runs have the same settings
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(folder / "graphs"))
    base, run = tmp_path / f"base.{form}", tmp_path / "run"
    run_script(WEIGHTS, "from-hf", folder / "hf", base)
    train(work, base, run)
    first, full = sorted((run / "checkpoint" / "rank_0").glob("*.ckpt"))
    with TensorFile(base) as ours, TensorFile(full) as trained:  # the frozen weights are the imported ones
        assert all(np.array_equal(ours.read(name), trained.read(name)) for name in ours.entries)
    adapter = next((run / "checkpoint_trainable" / "rank_0").glob("*.ckpt"))
    done = run_script(WEIGHTS, "merge", "--base", base, "--adapter", adapter, "--output",
                      tmp_path / f"merged.{form}")
    assert "4 weights changed" in done.stdout
    full.unlink()
    done = train(work, base, run, "--resume_training", "True")
    assert f"continuing from step 1 ({first})" in done.stdout
    assert full.is_file()


@pytest.mark.model
def test_several_workers_are_told_to_take_a_ckpt(work, tmp_path):
    base = tmp_path / "base.safetensors"
    run_script(WEIGHTS, "from-hf", work[0] / "hf", base)
    done = train(work, base, tmp_path / "run", "--use_parallel", "True", check=False)
    assert_user_error(done, "base.safetensors", "as .ckpt only", "weights.py from-hf HF_DIR base.ckpt")


@pytest.mark.parametrize(("recipe", "expected"), [
    ({"load_checkpoint": "/a/base.safetensors", "load_ckpt_format": "ckpt"}, "safetensors"),
    ({"load_checkpoint": "/a/base.ckpt", "load_ckpt_format": "safetensors"}, "ckpt"),
    ({"load_checkpoint": "/a/folder", "load_ckpt_format": "safetensors"}, "safetensors"),
    ({"load_checkpoint": "", "load_ckpt_format": "ckpt"}, "ckpt"),
    ({"load_checkpoint": "/a/run/checkpoint", "resume_training": "x-1_2.ckpt",
      "load_ckpt_format": "safetensors"}, "ckpt"),
])
def test_the_file_to_load_says_its_format(recipe, expected):
    assert checkpoint_format(recipe) == expected


@pytest.mark.model
def test_the_facts_taken_from_mindformers_are_mindformers():
    from mindformers.pet.pet_config import LoraConfig

    from research_internlm.model.config import InternLMConfig
    from research_internlm.recipes.check import _parameter_types
    from research_internlm.training import registered  # noqa: F401 (what the check looks up)

    defaults = LoraConfig(target_modules=".*wq")
    assert {key: defaults[key] for key in MINDFORMERS_DEFAULTS} == dict(MINDFORMERS_DEFAULTS)
    assert hf_config.EXPORT_KEYS - {"type", "pet_config"} <= _parameter_types(InternLMConfig).keys()
    config = InternLMConfig(seq_length=96)
    assert config.max_position_embedding == 96  # why an export needs the release's stated
