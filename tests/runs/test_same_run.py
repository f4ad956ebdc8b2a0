"""What is the same run again: every setting but places and cores, the data by content, the workers."""

import copy
from dataclasses import replace

import pytest

from research_internlm import recipes
from research_internlm.runs import same_run
from research_internlm.runs.run_info import RunInfo
from research_internlm.shared import schema
from tests.helpers.run_info import run_info


@pytest.fixture(scope="module")
def recipe(root):
    """The 7B recipe, which has every section that a training has."""
    return recipes.resolve(root / "yaml/lora_finetune.yaml")


def leaves(value, path=()):
    """Paths of all settings of a recipe."""
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        items = enumerate(value)
    else:
        yield path
        return
    for key, item in items:
        yield from leaves(item, (*path, key))


def changed(recipe, path):
    """The recipe with another value of one setting."""
    other = copy.deepcopy(recipe)
    node = other
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = "another value"
    return other


def is_no_part_of_a_run(path):
    return (path[0] in ("output_dir", "load_checkpoint", "resume_training")
            or path[-1] in ("dataset_dir", "num_parallel_workers", "full_checkpoints"))


def test_every_setting_of_every_section_is_compared(recipe):
    paths = [path for path in leaves(recipe) if path[-1] != "type"]
    ignored = [path for path in paths if not same_run.differences(recipe, changed(recipe, path))]
    derived = [path for path in ignored if path[0] == "callbacks"
               and recipe["callbacks"][path[1]]["type"] == "UsefulTokensMonitor"]
    assert [path for path in ignored if path not in derived] == [path for path in paths
                                                                 if is_no_part_of_a_run(path)]
    assert {"optimizer", "lr_schedule", "runner_wrapper", "runner_config", "model", "context", "callbacks",
            "parallel_config", "train_dataset"} <= {path[0] for path in paths if path not in ignored}


@pytest.mark.parametrize("section", ["optimizer", "lr_schedule", "model", "trainer"])
def test_a_section_that_is_gone_or_of_another_type_is_a_difference(recipe, section):
    without = {key: value for key, value in recipe.items() if key != section}
    keys = same_run.differences(recipe, without)
    assert keys and all(difference.startswith(f"{section}.") and difference.endswith("-> absent")
                        for difference in keys)
    assert same_run.differences(without, recipe)


def test_another_optimizer_is_named(recipe):
    other = recipes.merge(recipe, {"optimizer": {"type": "Adam", "betas": [0.9, 0.5]}})
    found = same_run.differences(recipe, other)
    assert f"optimizer.type: {recipe['optimizer']['type']} -> Adam" in found
    assert any(line.startswith("optimizer.betas: ") for line in found) and len(found) == 2


def test_the_data_is_compared_by_content_and_the_workers_by_number():
    def info(workers=4, **hashes):
        train = run_info(workers)["data"]["train_dataset"]
        data = {section: {**train, "sha256": letter * 64} for section, letter in hashes.items()}
        return schema.parse(RunInfo, run_info(workers) | {"data": data}, "run.json")

    run = info(train_dataset="a", eval_dataset="b")
    assert list(same_run.data_differences(run, run.data, 4)) == []
    moved = {section: replace(fact, file="/elsewhere") for section, fact in run.data.items()}
    assert list(same_run.data_differences(run, moved, 4)) == []
    other = info(train_dataset="a", eval_dataset="c").data
    assert list(same_run.data_differences(run, other, 2)) == [
        "workers: 4 -> 2", f"eval_dataset sha256: {'b' * 64} -> {'c' * 64}"]
    assert list(same_run.data_differences(run, info(train_dataset="a").data, 4)) == [
        f"eval_dataset sha256: {'b' * 64} -> None"]
