"""What is the same run again: every setting but places and cores, the data by content, the workers."""

import copy

import pytest

from research_internlm import recipes
from research_internlm.runs import same_run

RUN = {"workers": 4, "data": {"train_dataset": {"sha256": "a"}, "eval_dataset": {"sha256": "b"}}}


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
            or path[-1] in ("dataset_dir", "num_parallel_workers"))


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
    assert list(same_run.data_differences(RUN, RUN["data"], 4)) == []
    moved = {section: {**fact, "file": "/elsewhere"} for section, fact in RUN["data"].items()}
    assert list(same_run.data_differences(RUN, moved, 4)) == []
    assert list(same_run.data_differences(RUN, {**moved, "eval_dataset": {"sha256": "c"}}, 2)) == [
        "workers: 4 -> 2", "eval_dataset sha256: b -> c"]
    assert list(same_run.data_differences(RUN, {"train_dataset": {"sha256": "a"}}, 4)) == [
        "eval_dataset sha256: b -> None"]
