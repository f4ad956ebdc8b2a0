"""A made-up complete run, ready to be submitted."""

from __future__ import annotations

import contextlib
import shutil
import struct
from unittest import mock

import pytest
import yaml

from research_internlm import recipes
from research_internlm.contest import handin_zip, report_tables
from research_internlm.evaluation import squad
from research_internlm.runs import log_summary
from research_internlm.shared import run_layout
from research_internlm.shared.files import write_json, write_text
from tests.helpers.run_info import run_info

RANKS, ROWS, BATCH, EPOCHS = 2, 40, 4, 2  # 40 rows on 2 x 4: 5 steps an epoch, 10 in all
TOTAL = 10
HIDDEN, LAYERS, RANK = 64, 2, 8
TRAINABLE = LAYERS * 2 * RANK * (HIDDEN + HIDDEN)  # wq and wo


def field(number, payload):
    """A length-delimited protocol-buffer field."""
    size, length = len(payload), b""
    while True:
        size, low = size >> 7, size & 0x7F
        length += bytes([low | (0x80 if size else 0)])
        if not size:
            return bytes([number << 3 | 2]) + length + payload


def value(name, dims, dtype, content):
    shape = b"".join(bytes([8, dim]) for dim in dims)
    tensor = field(2, shape + field(2, dtype.encode()) + field(3, content))
    return field(1, field(1, name.encode()) + tensor)


def checkpoint(path, step, rank=RANK, cells=("wq", "wo"), batch=BATCH * RANKS):
    content = b""
    for layer in range(LAYERS):
        for cell in cells:
            stem = f"model.layers.{layer}.attention.{cell}.mindpet_delta_lora_"
            content += value(stem + "a", (rank, HIDDEN), "Float32", bytes(4 * rank * HIDDEN))
            content += value(stem + "b", (HIDDEN, rank), "Float32", bytes(4 * rank * HIDDEN))
            content += value("adam_m." + stem + "a", (rank, HIDDEN), "Float32", bytes(4 * rank * HIDDEN))
    content += value("step_num", (), "Int64", struct.pack("<q", step))
    content += value("global_batch_size", (), "Int64", struct.pack("<q", batch))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def log_text(steps, total_epoch=5, epochs=EPOCHS):
    return "".join(
        f"2026-11-23 15:41:{step:02},567 - INFO - {{ Epoch:[{(step - 1) // total_epoch + 1:3}/{epochs:3}], "
        f"step:[{(step - 1) % total_epoch + 1:5}/{total_epoch:5}], loss:[{4 / step:f}/{4 / step:f}], "
        "per_step_time: 200ms, lr: 5e-05, overflow cond: False, loss_scale: 16384.0, global_norm: [1.0]\n"
        for step in steps)


def evaluation_facts(sha):
    return {"checkpoint": "merged.ckpt", "checkpoint_sha256": sha, "config": "predict.yaml", "overlays": [],
            "overrides": [], "device_target": "CPU", "seed": 0, "tokenizer_sha256": "t",
            "prompt_version": "internlm-chat-1", "limit": None, "seconds": 1.5}


def mmlu_result(sha, accuracy=0.75):
    return {"task": "mmlu", "mode": "generate", "evaluation_kind": "held_out",
            "overall": {"total": 4, "correct": int(4 * accuracy), "unmatched": 1, "accuracy": accuracy,
                        "interval_95": [0.3, 0.95]},
            "per_source": {}, "per_category": {}, "unmatched_answers": [], "test_file_sha256": "test",
            **evaluation_facts(sha)}


def squad_result(sha, f1, em, **changes):
    scores = {"f1": f1, "em": em, "total": 2, "missing": 0}
    return {"task": "squad", "questions": "all", "official": {**scores, "total": 3}, "contest": scores,
            "missing_ids": [], "unknown_ids": [], "warnings": [], "squad_file_sha256": "small",
            **evaluation_facts(sha), **changes}


def write_squad(run, name, result):
    """A SQuAD result with its predictions and the last words of its log, as evaluate.py writes them."""
    write_json(run / f"{name}.json", result)
    write_json(run / f"{name}.predictions.json",
               {str(number): "a" for number in range(result["official"]["total"])})
    with open(run / f"{name.removeprefix('results_')}.log", "w") as log, contextlib.redirect_stdout(log):
        print("squad: 100%|####|")
        print("\n".join(squad.verdict_lines(result)))


def link(sha, number):
    return {"file": f"merged_{number}.ckpt", "bytes": 10, "sha256": sha, "public_read": True,
            "url": f"https://bucket.example/merged_{number}.ckpt"}


@pytest.fixture
def run(complete_run, tmp_path, monkeypatch):
    """A run folder in which everything is there and agrees, report included.

    Of the toolkit's source a hand-in of it holds two files: to look through all takes longer than all else.
    """
    monkeypatch.setattr(handin_zip, "_SOURCE", ("LICENSE", "setup.cfg"))
    return shutil.copytree(complete_run, tmp_path / "run1")


@pytest.fixture(scope="session")
def complete_run(root, tmp_path_factory):
    """What `run` is a copy of."""
    folder = tmp_path_factory.mktemp("complete") / "run1"
    recipe = recipes.merge(recipes.load_yaml(root / "yaml/lora_finetune.yaml"), {
        "runner_config": {"epochs": EPOCHS, "batch_size": BATCH, "sink_mode": False, "sink_size": 1},
        "model": {"model_config": {"hidden_size": HIDDEN, "num_layers": LAYERS, "num_heads": 2,
                                   "vocab_size": 500,
                                   "pet_config": {"lora_rank": RANK, "target_modules": ".*wq|.*wo"}}}})
    recipes.write_resolved(recipe, folder / "resolved_config.yaml")
    write_json(folder / "run.json", run_info(RANKS, ROWS, parameters={
        "base": 1_000_000, "trainable": TRAINABLE, "ratio": TRAINABLE / 1_000_000, "lora_cells": 4}))
    for rank in range(RANKS):
        write_text(folder / f"msrun_log/worker_{rank}.log", log_text(range(1, TOTAL + 1)))
    for number, step in enumerate((2, 4, 6, 8, 10)):
        # Names as they come out after a resume in the middle of an epoch: wrong on purpose.
        checkpoint(folder / f"checkpoint/rank_0/lora_rank_0-9_{9 - number}.ckpt", step)
    write_json(folder / "results_mmlu.json", mmlu_result("tuned"))
    write_squad(folder, "results_squad", squad_result("tuned", 49.54, 31.40))
    write_squad(folder, "results_squad_base", squad_result("base", 50.0, 32.0))
    write_json(folder / run_layout.LINKS, [link("tuned", 5), *(link(str(n), n) for n in range(1, 5))])
    report_tables.write_report(folder, "zh", overwrite=False)
    return folder


def rewrite_report(run):
    """Writes the report again, with the curve it has: drawing one takes longer than all else."""
    def keep(points, title, path):
        drawn = run / log_summary.OUTPUT_FOLDER / path.name
        shutil.copyfile(drawn, path) if drawn.exists() else draw(points, title, path)

    draw = log_summary.draw
    with mock.patch.object(log_summary, "draw", keep):
        report_tables.write_report(run, "zh", overwrite=True)


def edit_yaml(run, change):
    path = run / "resolved_config.yaml"
    write_text(path, yaml.safe_dump(recipes.merge(recipes.load_yaml(path), change)))
    rewrite_report(run)
