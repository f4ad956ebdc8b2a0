"""A recipe of 2024: everything that MindFormers renamed or dropped is said at once, with today's name."""

import re

import pytest
import yaml

from research_internlm import recipes
from research_internlm.recipes import renamed
from research_internlm.recipes.schedule import plan_from_recipe, steps_from_recipe
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import ROOT, assert_user_error, run_script

RECIPE = ROOT / "yaml/lora_finetune.yaml"
NINE = (
    "unknown key auto_tune, a name of MindFormers 1.1: leave it out",
    "unknown key autotune_per_step, a name of MindFormers 1.1: leave it out",
    "unknown key filepath_prefix, a name of MindFormers 1.1: leave it out",
    "unknown key context.enable_graph_kernel, a name of MindFormers 1.1: leave it out",
    "unknown key context.graph_kernel_flags, a name of MindFormers 1.1: leave it out",
    "optimizer.type 'FP32StateAdamWeightDecay' is not registered with MindFormers ("
    "a name of MindFormers 1.1): write AdamW, and betas: "
    "[B1, B2] in place of beta1 and beta2",
    "callbacks.type 'CheckpointMointor' is not registered with MindFormers ("
    "a name of MindFormers 1.1): write CheckpointMonitor",
    "callbacks.type 'ObsMonitor' is not registered with MindFormers ("
    "a name of MindFormers 1.1): leave it out; --mirror of",
    "eval_callbacks.type 'ObsMonitor' is not registered with MindFormers ("
    "a name of MindFormers 1.1): leave it out; --mirror of",
)


@pytest.fixture
def old_recipe(tmp_path):
    """A recipe of today, written with the names of 2024."""
    recipe = recipes.resolve(RECIPE, [])
    recipe["optimizer"] = {"type": "FP32StateAdamWeightDecay", "beta1": 0.9, "beta2": 0.999, "eps": 1.0e-8}
    recipes.callback(recipe, "CheckpointMonitor")["type"] = "CheckpointMointor"
    recipe["callbacks"].append({"type": "ObsMonitor"})
    recipe["eval_callbacks"] = [{"type": "ObsMonitor"}]
    recipe |= {"auto_tune": False, "filepath_prefix": "./autotune", "autotune_per_step": 10}
    recipe["context"] |= {"enable_graph_kernel": False, "graph_kernel_flags": "--disable_expand_ops=Softmax"}
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def assert_nine(text):
    assert "9 wrong setting(s)" in text or text.count("MindFormers 1.1") == 9
    for sentence in NINE:
        assert len(re.findall(rf"(?<!\w){re.escape(sentence)}", text)) == 1, (sentence, text)


def test_recipes_of_today_hold_no_old_name():
    for path in (ROOT / "yaml").glob("*.yaml"):
        assert list(renamed.problems(recipes.resolve(path, []))) == []


def test_the_plan_says_all_of_them(old_recipe):
    done = run_script("research_internlm/plan.py", "--config", old_recipe, "--items", "1000", check=False)
    assert_user_error(done, "9 wrong setting(s) in the config")
    assert_nine(done.stderr)


@pytest.mark.parametrize(("name", "words"), [
    ("CheckpointMonitr", "callbacks.type 'CheckpointMonitr' is not registered with MindFormers as a callback "
                         "(did you mean CheckpointMonitor?)"),
    ("MFLossMonitor", "no CheckpointMonitor under callbacks"),
])
def test_a_near_name_of_the_missing_callback_is_named(name, words):
    recipe = recipes.resolve(RECIPE, [])
    recipe["callbacks"] = [{"type": name}]
    with pytest.raises(ToolkitError, match=re.escape(words)):
        plan_from_recipe(recipe, steps_from_recipe(recipe, 1000, 4))


@pytest.mark.model
def test_a_launch_says_all_of_them_once_and_starts_no_worker(old_recipe, tmp_path):
    done = run_script("research_internlm/launch.py", old_recipe, "2", "--", "--train_dataset",
                      tmp_path / "no", "--output_dir", tmp_path / "run", check=False)
    assert_user_error(done, "problem(s) before the start")
    assert_nine(done.stderr)
    assert not (tmp_path / "run/msrun_log").exists()
