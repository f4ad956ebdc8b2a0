"""InternLM2 as a second family: tokens, ChatML, recipes, and the main job on a tiny model."""

import json

import numpy as np
import pytest

from research_internlm import recipes
from research_internlm.data.chat_template import encode, render_chat
from research_internlm.data.choice import answer_position
from research_internlm.data.items import render_item, render_squad
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.model import lora
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import ROOT, convert_items, exam_items, run_script
from tests.helpers.warm import run_warm

YAML = ROOT / "yaml"


@pytest.fixture(scope="module")
def tokenizer(demo_data, tmp_path_factory):
    """The demo's tokenizer in InternLM2's layout."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    run_script("scripts/demo/tiny_tokenizer.py", "--corpus", demo_data / "base_corpus.json", "--output", path,
               "--family", "internlm2")
    return path


def test_the_real_vocabulary_is_recognised(real_data):
    special = special_tokens(load_tokenizer(real_data / "tokenizers" / "internlm2.model"))
    assert (special.family, special.vocab_size) == ("internlm2", 92544)
    assert dict(special.ids) == {"unk": 0, "bos": 1, "eos": 2, "end_of_assistant": 92542,
                                 "end_of_user": 92542, "turn_start": 92543}
    assert special.stop_ids == (92542, 2)
    other = special_tokens(load_tokenizer(real_data / "tokenizers" / "internlm.model"))
    assert other.family == "internlm"


def test_a_vocabulary_near_internlm2_is_told_what_differs(tmp_path, tokenizer):
    content = tokenizer.read_bytes()
    (tmp_path / "other.model").write_bytes(content.replace(b"[UNUSED_TOKEN_146]", b"[UNUSED_TOKEN_999]"))
    with pytest.raises(ToolkitError, match=r"not InternLM2's: id \d+ is '\[UNUSED_TOKEN_999\]' where"):
        load_tokenizer(tmp_path / "other.model")


def test_chatml_is_the_release_s_template(real_data):
    processor = load_tokenizer(real_data / "tokenizers" / "internlm2.model")
    special = special_tokens(processor)
    ids, supervised = encode(render_chat("Hello", "", "assistant", special.family), processor, special)
    # chat_template by hand: <s><|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n...<|im_end|>
    # with the real vocabulary's user 1008, newline 364, Hello 9843, ass 525, istant 11353
    prompt = [1, 92543, 1008, 364, 9843, 92542, 364, 92543, 525, 11353, 364]
    assert ids == [*prompt, 525, 11353, 92542]
    assert supervised == [False] * len(prompt) + [True] * 3
    assert encode(render_chat("Hello", "", family=special.family), processor, special)[0] == prompt


def test_only_the_chat_prompt_depends_on_the_family():
    item = {"instruction": "I", "input": "x", "output": "y"}
    assert render_item(item, "internlm2") == render_chat("I", "x", "y", "internlm2") != render_item(item)
    assert render_item(item) == render_chat("I", "x", "y", "internlm")
    reading = {"passage": "P", "question": "Q", "output": "A"}
    assert render_item(reading, "internlm2") == render_squad("P", "Q", "A") == render_item(reading)


def test_letters_have_ids_of_their_own(real_data):
    processor = load_tokenizer(real_data / "tokenizers" / "internlm2.model")
    prefix, letters = answer_position(["Paris", "Lima", "None", "A and B"], processor)
    assert processor.decode(prefix) == "The right option is"
    assert [processor.id_to_piece(letter) for letter in letters] == [f"\u2581{letter}" for letter in "ABCD"]


@pytest.mark.parametrize(("size", "parameters"), [
    # layers x (wq, wo: h x h; wk, wv: h x 8 heads; three of h x ffn; two norms) + 2 x 92544 x h + h
    ("1_8b", 24 * (2 * 2048**2 + 2 * 2048 * 1024 + 3 * 2048 * 8192 + 2 * 2048) + 2 * 92544 * 2048 + 2048),
    ("7b", 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096) + 2 * 92544 * 4096 + 4096),
    ("20b", 48 * (2 * 6144**2 + 2 * 6144 * 1024 + 3 * 6144 * 16384 + 2 * 6144) + 2 * 92544 * 6144 + 6144),
])
def test_overlays_have_the_releases_sizes(size, parameters):
    overlay = YAML / "overlays" / f"internlm2_{size}.yaml"
    recipe = recipes.resolve(YAML / "lora_finetune.yaml", [overlay])
    assert lora.count_parameters(recipes.model_config(recipe)).base == parameters
    assert f"{parameters:,} parameters" in overlay.read_text()


def test_the_recipe_is_internlm_s_with_another_model():
    own = recipes.resolve(YAML / "lora_finetune_internlm2.yaml")
    laid = recipes.resolve(YAML / "lora_finetune.yaml", [YAML / "overlays" / "internlm2_7b.yaml"])
    assert own["model"] == laid["model"] and own["runner_config"] == laid["runner_config"]
    assert recipes.callback(own, "CheckpointMonitor")["prefix"] == "internlm2_7b_lora"
    assert "extends" not in own


@pytest.mark.model
@pytest.mark.parametrize("recipe", ["lora_finetune_internlm2.yaml", "lora_finetune.yaml", "predict_mmlu.yaml",
                                    "predict_eval_squad.yaml"])
@pytest.mark.parametrize("size", ["1_8b", "7b", "20b"])
def test_every_recipe_passes_the_check_with_every_size(recipe, size):
    from research_internlm.recipes.check import check
    from research_internlm.training import registered  # noqa: F401 (what the check looks up)

    check(recipes.resolve(YAML / recipe, [YAML / "overlays" / f"internlm2_{size}.yaml"]))


@pytest.mark.model
def test_the_main_job_on_a_tiny_internlm2(demo_data, tokenizer, tmp_path, monkeypatch):
    """Convert, train, merge, evaluate: with GQA, and ChatML in the records."""
    convert_items(tmp_path, tokenizer, exam_items(demo_data)[:16], "--seq_length", 96)
    manifest = json.loads((tmp_path / "train.mindrecord.manifest.json").read_text())
    size = manifest["special_ids"]["vocab_size"]
    assert manifest["special_ids"]["turn"] == size - 1
    settings = [f"model.model_config.{key}={value}" for key, value in {
        "vocab_size": size, "seq_length": 96, "hidden_size": 32, "num_layers": 1}.items()]
    tiny = ("--overlay", YAML / "overlays" / "cpu_tiny_internlm2.yaml")
    done = run_warm(
        "research_internlm/run_internlm.py", "--config", YAML / "lora_finetune_internlm2.yaml", *tiny,
        "--train_dataset", tmp_path / "train.mindrecord", "--output_dir", tmp_path / "run", "--use_parallel",
        "False", *settings, "do_eval=False", "runner_config.epochs=8", "lr_schedule.learning_rate=5.0e-2",
        "callbacks.CheckpointMonitor.save_checkpoint_steps=32")
    losses = [float(line.split("loss:[")[1].split("/")[0])
              for line in (done.stdout + done.stderr).splitlines() if "loss:[" in line]
    # Whole epochs are compared: batches of different items differ by more than a few steps learn.
    assert len(losses) == 32 and np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.02
    full = next((tmp_path / "run" / "checkpoint" / "rank_0").glob("internlm2_7b_lora*.ckpt"))
    merged = tmp_path / "merged.safetensors"
    run_script("research_internlm/weights.py", "merge", "--base", full, "--adapter", full, "--output", merged)
    answers = []
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")  # both evaluations have the same settings
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path / "graphs"))
    for checkpoint in (full, merged):
        result = tmp_path / f"{checkpoint.suffix}.json"
        run_warm("research_internlm/evaluate.py", "mmlu", "--config", YAML / "predict_mmlu.yaml",
                 "--overlay", YAML / "overlays" / "internlm2_7b.yaml", *tiny, "--load_checkpoint",
                 checkpoint, "--model_file", tokenizer, "--test_file", tmp_path / "items.json", "--output",
                 result, "--limit", 4, *settings, "model.model_config.seq_length=128",
                 "model.model_config.max_new_tokens=4")
        answers.append(json.loads(result.with_suffix(".predictions.json").read_text()))
    assert answers[0] == answers[1]
