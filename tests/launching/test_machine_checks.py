"""What a machine must have before workers are started."""

import shutil
from types import SimpleNamespace

import pytest

from research_internlm import recipes
from research_internlm.launching import machine_checks
from research_internlm.model.lora import count_parameters
from research_internlm.planning import memory
from research_internlm.recipes.schedule import plan_from_recipe, steps_from_recipe

ROWS, WORKERS, LOCAL = 138_020, 4, 2


@pytest.fixture
def recipe(root, tmp_path):
    recipe = recipes.resolve(root / "yaml/lora_finetune.yaml", [root / "yaml/overlays/cpu_tiny.yaml"])
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
    full, adapter = memory.checkpoint_bytes(recipe, count_parameters(recipes.model_config(recipe)))
    assert full > 0 and adapter > 0
    return saves * local_workers * (full + adapter)


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
    assert f"{saves} checkpoints x {LOCAL} ranks" in problem and recipe["output_dir"] in problem
    assert problems(recipe, LOCAL - 1) == []


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
