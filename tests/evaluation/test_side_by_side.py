"""Weights as they are, quantised, with a quantised cache and both: one table, and every changed answer."""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research_internlm import weights
from research_internlm.evaluation import side_by_side
from research_internlm.evaluation.mmlu import MmluTask
from research_internlm.evaluation.side_by_side import Compared
from research_internlm.evaluation.squad import SquadTask
from research_internlm.inference.kv_quantization import KvQuantization, LayerScales
from research_internlm.inference.text_codec import TextCodec
from research_internlm.quantisation.kv_statistics import KvStatistics, LayerStatistics, read_layer_scales
from research_internlm.shared import schema
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import exam_items
from tests.helpers.finished_run import evaluation_facts
from tests.helpers.tiny_quantised import GROUP, make_model
from tests.helpers.warm import run_warm


@dataclasses.dataclass
class ScriptedModel:
    """Knows all letters; with a rounded cache it takes the first one for the question's number 0."""

    codec: Any
    model_config: dict
    checkpoint: str
    kv: KvQuantization | None = None

    def load(self, longest):
        return self

    def facts(self):
        return evaluation_facts(Path(self.checkpoint).name)

    def next_token_scores(self, prompts, candidates, describe="score"):
        scores = np.tile(np.array([0, 1, 2, 3], np.float32), (len(prompts), 1))
        if self.kv:
            scores[0] = [9, 0, 0, 0]
        if "dequantised" in self.checkpoint:
            scores[1:3] = [0, 9, 0, 0]
        return scores


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, demo_data):
    folder = tmp_path_factory.mktemp("side")
    checkpoint, _, _, config = make_model(folder, demo_data / "tokenizer.model")
    weights.main(["quantize", "--model", str(checkpoint), "--config", str(folder / "model.yaml"), "--output",
                  str(folder / "w4"), "--group_size", str(GROUP), "--method", "rtn"])
    (folder / "test.json").write_text(json.dumps(exam_items(demo_data)[:6]))
    return folder, config


def test_one_table_of_four_with_sizes_and_changed_answers(tiny, demo_data, capsys):
    folder, config = tiny
    codec = TextCodec(demo_data / "tokenizer.model", config["vocab_size"])
    model = ScriptedModel(codec, {**config, "seq_length": 4096}, str(folder / "model.ckpt"))

    def task():
        return MmluTask(str(folder / "test.json"), "logits")

    others = Compared(folder / "w4", KvQuantization(8))
    outcome = side_by_side.evaluate(task(), task, model, others, None, time.time())
    rows = outcome.result["quantised"]
    assert list(rows) == ["32-bit weights", "KV8", "W4", "W4 + KV8"]
    assert [len(row["changed"]) for row in rows.values()] == [0, 1, 2, 3]
    assert rows["KV8"]["changed"] == [{"id": rows["KV8"]["changed"][0]["id"], "from": "D", "to": "A"}]
    sizes = [row["weight_bytes"] for row in rows.values()]
    assert sizes[0] == sizes[1] > 2 * sizes[2] and sizes[2] == sizes[3]
    assert rows["W4"]["weight_bytes"] == (folder / "w4" / "model.safetensors").stat().st_size
    # Three layers, four heads of 16: two float16 a channel, or a byte a channel and four a head.
    assert rows["W4"]["kv_bytes_per_token"] == 3 * 4 * 16 * 4
    assert rows["KV8"]["kv_bytes_per_token"] == 3 * 4 * (16 + 4) * 2
    assert all(len(row["metrics"]["accuracy"]["interval_95"]) == 2 for row in rows.values())
    assert rows["W4 + KV8"]["result"]["overall"]["total"] == 6
    table = [*side_by_side.lines(rows)]
    assert len(table) == 4 and table[-1].endswith("3 of 6 answers changed")
    assert "answers changed" not in table[0]
    assert "is dequantised to float16" in capsys.readouterr().out


def test_nothing_is_compared_unless_it_is_asked_for(tiny, demo_data):
    folder, config = tiny
    codec = TextCodec(demo_data / "tokenizer.model", config["vocab_size"])
    model = ScriptedModel(codec, {**config, "seq_length": 4096}, str(folder / "model.ckpt"))
    outcome = side_by_side.evaluate(MmluTask(str(folder / "test.json"), "logits"), None, model,
                                    Compared(None, None), None, time.time())
    assert "quantised" not in outcome.result and not [*side_by_side.lines({})]


def test_squad_s_intervals_are_those_of_the_mean(demo_data):
    task = SquadTask(str(demo_data / "squad.json"))
    items = task.items[:8]
    answers = [item.answers[0] if number % 4 else "nothing" for number, item in enumerate(items)]
    metrics = task.metrics(items, answers, {})
    scores = np.array([100.0 * bool(number % 4) for number in range(8)])
    reach = 1.959964 * scores.std(ddof=1) / 8 ** 0.5
    assert metrics["official EM"].value == 75
    assert metrics["official EM"].interval_95 == pytest.approx((75 - reach, min(75 + reach, 100)))
    assert set(metrics) == {"contest F1", "contest EM", "official F1", "official EM"}
    assert task.decisions(items, answers)[items[0].id] == "nothing"


def options(**given):
    return argparse.Namespace(**{"quantized": None, "kv_bits": None, "kv_stats": None} | given)


def test_options(tmp_path):
    layer = LayerStatistics(0.1, 0.2, 0.3, 0.4, [], [])
    (tmp_path / "kv_cache.json").write_text(json.dumps(schema.to_json(KvStatistics(8, 9, "", [layer]))))
    assert read_layer_scales(tmp_path) == [LayerScales(0.1, 0.2, 0.3, 0.4)]
    assert not side_by_side.compared(options())
    assert side_by_side.compared(options(kv_bits=4)).kv.title == "KV4"
    assert side_by_side.compared(options(kv_bits=8, kv_stats=tmp_path)).kv.title == "KV8 per layer"
    with pytest.raises(ToolkitError, match="add --kv_bits 8"):
        side_by_side.compared(options(kv_bits=4, kv_stats=tmp_path))


@pytest.mark.model
def test_the_command_compares_losses(tiny, demo_data, tmp_path):
    folder, config = tiny
    overrides = [f"model.model_config.{key}={value}" for key, value in config.items()
                 if key not in ("type", "rms_norm_eps")]
    done = run_warm(
        "research_internlm/evaluate.py", "loss", "--config", "yaml/predict_mmlu.yaml", "--overlay",
        "yaml/overlays/cpu_tiny.yaml", "--load_checkpoint", folder / "model.ckpt", "--model_file",
        demo_data / "tokenizer.model", "--file", folder / "test.json", "--limit", 3, "--quantized",
        folder / "w4",
        "--kv_bits", 8, "--output", tmp_path / "loss.json", *overrides, "runner_config.batch_size=8")
    rows = json.loads((tmp_path / "loss.json").read_text())["quantised"]
    losses = {title: row["metrics"]["loss"]["value"] for title, row in rows.items()}
    plain = losses.pop("32-bit weights")
    assert len(losses) == 3 and all(0 < abs(loss - plain) < 0.5 for loss in losses.values())
    assert "bytes of cache a token" in done.stdout


