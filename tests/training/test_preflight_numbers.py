"""Numbers of the right type that no run can have are found before a model is built."""

import pytest

from research_internlm import recipes
from research_internlm.training import preflight

SETTINGS = {"model.model_config.num_heads=0": "num_heads is 0",
            "model.model_config.n_kv_heads=3": "n_kv_heads 3",
            "model.model_config.multiple_of=-1": "multiple_of is -1",
            "model.model_config.num_layers=10001": "num_layers is 10,001, more than any model has",
            "runner_config.batch_size=0": "batch_size is 0",
            "runner_config.epochs=-1": "runner_config.epochs is -1", "seed=-1": "config's seed is -1",
            "model.model_config.pet_config.lora_rank=0": "lora_rank is 0"}


def problems(root, *overrides):
    overlays = [root / "yaml/overlays/cpu_tiny.yaml"]
    recipe = recipes.resolve(root / "yaml/lora_finetune.yaml", overlays, overrides)
    return list(preflight._number_problems(recipe))


@pytest.mark.parametrize("override", SETTINGS)
def test_a_number_that_no_run_can_have(root, override):
    [problem] = problems(root, override)
    assert SETTINGS[override] in problem


def test_all_of_them_come_at_once(root):
    assert len(problems(root, *SETTINGS)) == len(SETTINGS) - 2  # groups and layers come last
    assert problems(root) == []
    assert problems(root, "model.model_config.multiple_of=null", "seed=null") == []
