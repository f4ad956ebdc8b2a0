"""Launches real workers on a CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess

import pytest

from research_internlm import launch as launch_module
from research_internlm import recipes
from research_internlm.checkpoints import weight_names
from research_internlm.launching import msrun as msrun_module
from research_internlm.launching import options
from research_internlm.recipes.data_check import check_data, fill_from_data
from research_internlm.runs.worker_logs import read_run
from research_internlm.shared import processes
from research_internlm.training import command, worker
from tests.helpers.commands import ROOT, convert_items, exam_items
from tests.helpers.run_info import parameters
from tests.helpers.warm import run_warm
from tests.helpers.weight_files import random_tensors, write

SEQ_LENGTH = 64
EPOCHS = 8
STEPS = 6 * EPOCHS  # 24 rows, global batch 4


@pytest.fixture(scope="session")
def work(demo_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    items = [item | {"output": "The right option is A."} for item in exam_items(demo_data)[:24]]
    convert_items(folder, demo_data / "tokenizer.model", items, "--seq_length", SEQ_LENGTH)
    return folder


def launch_command(work, output, workers, *more, launcher=()):
    manifest = json.loads((work / "train.mindrecord.manifest.json").read_text())
    return ["bash", "scripts/train_msrun.sh", "yaml/lora_finetune.yaml", str(workers), *launcher, "--",
            "--overlay", "yaml/overlays/cpu_tiny.yaml", "--train_dataset", str(work / "train.mindrecord"),
            "--output_dir", str(work / output), f"runner_config.batch_size={4 // workers}",
            f"model.model_config.vocab_size={manifest['special_ids']['vocab_size']}",
            f"model.model_config.seq_length={SEQ_LENGTH}", "model.model_config.hidden_size=32",
            "model.model_config.num_layers=1", "model.model_config.num_heads=2", "do_eval=False",
            "model.model_config.pet_config.lora_dropout=0.0", f"runner_config.epochs={EPOCHS}",
            "runner_wrapper.scale_sense.scale_window=9", "lr_schedule.learning_rate=1.0e-2",
            "callbacks.CheckpointMonitor.save_checkpoint_steps=2",
            "callbacks.CheckpointMonitor.keep_checkpoint_max=100", *more]


def base_weights(work):
    """Random weights of the launched model."""
    if (work / "base.ckpt").exists():
        return work / "base.ckpt"
    arguments = command.parse_arguments(["--config", "yaml/lora_finetune.yaml",
                                         *launch_command(work, "base", 1)[5:]])
    shapes = weight_names.parameter_shapes(recipes.model_config(command.resolve(arguments)))
    return write(work / "base.ckpt", {name: 0.1 * value for name, value in random_tensors(shapes).items()})


@pytest.fixture(scope="session")
def whole(work):
    """A run of 2 workers with shuffling that nothing interrupted; it leaves its graphs to other launches."""
    done = launch(work, "whole", 2, "--load_checkpoint", str(base_weights(work)), graphs=work / "graphs")
    assert done.returncode == 0, done.stdout + done.stderr
    return work / "whole"


@pytest.fixture(scope="session")
def one(work):
    """As `whole` with the same global batches in one worker, not launched; its graphs are for launches."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cache(work / "graphs_of_one").items():
            patch.setenv(name, value)
        run_warm("research_internlm/run_internlm.py", "--config", "yaml/lora_finetune.yaml", "--use_parallel",
                 "False", *launch_command(work, "one", 1, "--load_checkpoint", str(base_weights(work)),
                                          "callbacks.CheckpointMonitor.keep_checkpoint_max=5")[5:])
    return work / "one"


def cache(graphs):
    return {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(graphs)}


def environment(graphs=None):
    """Variables of a launch; `graphs` is a folder that holds or gets what workers compile.

    MindSpore checks the model's source files there, not its settings: only for launches with equal ones.
    """
    with socket.socket() as probe:
        probe.bind(("", 0))
        return os.environ | {"MASTER_PORT": str(probe.getsockname()[1]), "MS_SECRET_KEY": "hunter2",
                             "GLOG_v": "3"} | (cache(graphs) if graphs else {})


def launch(*arguments, graphs=None, **keywords):
    return subprocess.run(launch_command(*arguments, **keywords), cwd=ROOT, env=environment(graphs),
                          capture_output=True, text=True, timeout=400, check=False)


def lines(run, rank):
    return {step: (record.loss, record.learning_rate, record.loss_scale)
            for step, record in read_run(run)[rank].records.items()}


def assert_same_losses(found, expected):
    """Holds steps, losses, learning rates and loss scales of one rank's log against another's.

    MindSpore's CPU kernels try six partitions of their work in the first 30 launches of a process, five each,
    and keep the fastest: equal weights and rows give losses that differ by float32's rounding, which is
    4.8e-7 at a loss of 7 (up to 2e-6 was seen, as printed). The restored state itself is compared bit for bit
    by a test of its own.
    """
    assert list(found) == list(expected)
    for step, (loss, *others) in found.items():
        assert loss == pytest.approx(expected[step][0], rel=5e-7), step
        assert others == list(expected[step][1:]), step


def prepare(command_line):
    """What a worker does before it trains."""
    arguments = command.parse_arguments(command_line)
    recipe = command.resolve(arguments)
    data = check_data(recipe, arguments.config)
    fill_from_data(recipe, data, workers=1)
    worker.prepare_output(recipe, parameters(), data, arguments)


@pytest.fixture
def start_one(work, monkeypatch):
    """Launches workers that end before their first step; returns the exit code and msrun's command."""
    from research_internlm.recipes import check  # noqa: F401
    from research_internlm.training import registered  # noqa: F401 (so that no launch imports it again)

    monkeypatch.chdir(ROOT)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)

    def run(output, *more, launcher=(), workers=1):
        started = []

        def run_msrun(msrun, attempt, folder, has_scheduler):
            started.extend(msrun)
            prepare(msrun[next(n for n, word in enumerate(msrun) if word.endswith("run_internlm.py")) + 1:])
            return 0, None

        monkeypatch.setattr(msrun_module, "run_msrun", run_msrun)
        words = launch_command(work, output, workers, *more, launcher=launcher)[2:]
        try:
            return launch_module.launch_run(options.parse(words, "")), started
        finally:
            while processes._held:
                os.close(processes._held.pop())

    return run
