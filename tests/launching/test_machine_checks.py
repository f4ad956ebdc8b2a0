"""What a machine must have before workers are started."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from research_internlm import recipes
from research_internlm.launching import machine_checks
from research_internlm.model.lora import count_parameters
from research_internlm.planning import memory
from research_internlm.recipes.schedule import plan_from_recipe, steps_from_recipe

SAMPLES = Path(__file__).parents[1] / "machine/npu_smi"
ROWS, WORKERS, LOCAL = 138_020, 4, 2


@pytest.fixture
def recipe(root, tmp_path):
    """Of ranks that each write all their saves in full."""
    recipe = recipes.resolve(root / "yaml/lora_finetune.yaml", [root / "yaml/overlays/cpu_tiny.yaml"],
                             ["callbacks.CheckpointMonitor.full_checkpoints=all", "parallel.parallel_mode=1"])
    return {**recipe, "output_dir": str(tmp_path / "not" / "yet" / "there")}


@pytest.fixture
def free(monkeypatch):
    """Sets the free bytes of every disk; returns the folders that were asked for."""
    asked = []

    def set_free(number):
        def disk_usage(folder):
            asked.append(folder)
            return SimpleNamespace(free=number)

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        return asked

    return set_free


def needed(recipe, saves, local_workers):
    sizes = memory.save_bytes(recipe, count_parameters(recipes.model_config(recipe)))
    assert sizes.full > 0 and sizes.adapter > 0
    return saves * local_workers * (sizes.full + sizes.adapter)


def problems(recipe, local_workers=LOCAL, last_step=0):
    return list(machine_checks.disk_problems(recipe, ROWS, WORKERS, local_workers, last_step))


def test_a_disk_must_hold_all_checkpoints_of_this_machine_s_ranks(recipe, free, tmp_path):
    saves = len(plan_from_recipe(recipe, steps_from_recipe(recipe, ROWS, WORKERS)).kept)
    assert saves > 1
    least = needed(recipe, saves, LOCAL)
    asked = free(least)
    assert problems(recipe) == [] and asked == [tmp_path]  # the folder that is there already
    assert len(problems(recipe, LOCAL + 1)) == 1
    free(least - 1)
    [problem] = problems(recipe)
    assert f"{saves} full checkpoints and 0 saves" in problem and f"by {LOCAL} rank(s)" in problem
    assert recipe["output_dir"] in problem
    assert problems(recipe, LOCAL - 1) == []


def test_in_data_parallel_mode_rank_0_alone_writes_and_only_the_five_in_full(root, recipe, free):
    own = {**recipes.resolve(root / "yaml/lora_finetune.yaml"), "output_dir": recipe["output_dir"]}
    free(75e9)
    assert len(problems(own)) == 1  # 5 x 14.85 GB, 5 x 0.2 of state, 10 adapters of 0.067
    free(76e9)
    assert problems(own) == [] and problems(own, local_workers=8) == []
    free(16e9)
    assert problems(own, last_step=4 * 6_904) == []  # one full one to come, and the state before it
    free(14e9)
    assert "1 full checkpoints and 1 saves" in problems(own, last_step=4 * 6_904)[0]


def test_a_resumed_run_needs_room_for_what_is_still_to_come(recipe, free):
    kept = plan_from_recipe(recipe, steps_from_recipe(recipe, ROWS, WORKERS)).kept
    free(needed(recipe, 1, LOCAL))
    assert problems(recipe, last_step=kept[-3]) and not problems(recipe, last_step=kept[-2])
    free(0)
    assert problems(recipe, last_step=kept[-2]) and not problems(recipe, last_step=kept[-1])


def test_the_figures_are_bytes_in_gigabytes(recipe, free):
    saves = len(plan_from_recipe(recipe, steps_from_recipe(recipe, ROWS, WORKERS)).kept)
    free(1)
    assert f"about {needed(recipe, saves, LOCAL) / 1e9:,.1f} GB in" in problems(recipe)[0]
    assert "but 0.0 GB are free" in problems(recipe)[0]


@pytest.fixture
def npus(tmp_path, monkeypatch):
    """Stands in for a machine with NPUs: devices in a folder, an npu-smi on PATH, a CANN that is sourced."""
    for name in ("dev", "bin", "cann/lib64", "cann/opp"):
        (tmp_path / name).mkdir(parents=True)
    for name, value in (("ASCEND_HOME_PATH", "cann"), ("ASCEND_OPP_PATH", "cann/opp"),
                        ("LD_LIBRARY_PATH", "cann/lib64")):
        monkeypatch.setenv(name, str(tmp_path / value))
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_RT_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    def show(sample, count):
        for number in range(count):
            (tmp_path / f"dev/davinci{number}").touch()
        program = tmp_path / "bin/npu-smi"
        program.write_text(f"#!/bin/sh\n[ $1 = info ] && cat {SAMPLES}/{sample}.txt\n")
        program.chmod(0o755)
        return tmp_path / "dev"
    return show


ASCEND = {"device_target": "Ascend", "max_device_memory": "58GB"}


def test_free_npus_may_be_used(npus, capsys):
    folder = npus("24.1.rc1", 4)
    assert machine_checks.ascend_problems(2, ASCEND, folder) == [] and capsys.readouterr().out == ""


def test_what_stops_a_launch_is_said_at_once_and_warnings_are_printed(npus, capsys, monkeypatch):
    folder = npus("26.0.rc1", 3)
    monkeypatch.delenv("ASCEND_OPP_PATH")
    busy, ill, operators = machine_checks.ascend_problems(3, ASCEND, folder)
    assert "used by 1712733 (sglangschedul" in busy and "NPU 2 (910B3) reports Alarm" in ill
    assert operators.startswith("ASCEND_OPP_PATH")
    [warning] = capsys.readouterr().out.splitlines()
    assert warning.startswith("warning: NPU 1 (910B3) reports Warning")


def test_cards_smaller_than_the_recipe_asks_for_are_warned_of(npus, capsys):
    folder = npus("25.2.0", 8)
    assert machine_checks.ascend_problems(8, ASCEND, folder) == []
    assert "910B4 has 32,768 MB, but max_device_memory asks for 59,392 MB" in capsys.readouterr().out
    assert machine_checks.ascend_problems(8, ASCEND | {"max_device_memory": "28GB"}, folder) == []
    assert machine_checks.ascend_problems(8, {}, folder) == [] and capsys.readouterr().out == ""


def test_a_cpu_run_asks_for_nothing_of_it(npus, capsys, monkeypatch):
    folder = npus("26.0.rc1", 1)
    monkeypatch.setenv("ASCEND_HOME_PATH", "/nowhere")
    assert machine_checks.ascend_problems(4, {"device_target": "CPU"}, folder) == []
    assert capsys.readouterr().out == ""
