"""A recipe of another form than the toolkit reads is refused, all of it at once."""

import functools

import pytest
import yaml

from research_internlm import plan, recipes
from research_internlm.recipes.schedule import steps_from_recipe
from research_internlm.recipes.structure import OWN_MODE
from research_internlm.shared.errors import ToolkitError


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


def test_everything_wrong_is_listed_at_once(tmp_path):
    path = write(tmp_path, a="model: [1]\ncallbacks: {type: A}\n"
                             "runner_config: {sink_mode: 1}\nrun_mode: [predict]")
    with pytest.raises(ToolkitError) as error:
        recipes.resolve(path)
    for words in ("4 wrong setting(s)", "model must be a mapping of settings, found [1]",
                  "callbacks must be a list of components that each have a type or null, found {'type': 'A'}",
                  "runner_config.sink_mode must be bool or null, found 1",
                  "run_mode must be str or null, found ['predict']"):
        assert words in str(error.value)


def test_an_override_is_of_the_form_too(root):
    with pytest.raises(ToolkitError, match=r"callbacks must be a list .* found 'x'"):
        recipes.resolve(root / "yaml/lora_finetune.yaml", overrides=["callbacks=x"])


def test_recomputing_is_a_mapping_as_mindformers_has_it(root, capsys):
    config = root / "yaml/lora_finetune.yaml"
    with pytest.raises(ToolkitError, match=r"recompute_config must be a mapping .* or null, found True"):
        recipes.resolve(config, overrides=["recompute_config=true"])
    assert plan.main(["--config", str(config), "--items", "100000", "recompute_config=null"]) == 0


@pytest.mark.parametrize("key", ["param_init_type", "pet_config.param_init_type"])
def test_types_of_numbers_are_texts(root, key):
    with pytest.raises(ToolkitError, match=rf"model\.model_config\.{key} must be str or null, found \[1\]"):
        recipes.resolve(root / "yaml/lora_finetune.yaml", overrides=[f"model.model_config.{key}=[1]"])


@pytest.mark.parametrize("part", ["optimizer", "lr_schedule", "runner_wrapper.scale_sense", "model.arch",
                                  "train_dataset.data_loader", "metric", "trainer"])
def test_types_of_components_are_texts(root, part):
    with pytest.raises(ToolkitError, match=rf"{part}\.type must be str or null, found \[1\]"):
        recipes.resolve(root / "yaml/lora_finetune.yaml", overrides=[f"{part}.type=[1]"])


def test_a_run_without_end_is_refused(root):
    recipe = recipes.resolve(root / "yaml/lora_finetune.yaml", overrides=["runner_config.epochs=10000000000"])
    with pytest.raises(ToolkitError, match="10,000,000,000 epochs of 2,500 steps are more than any run"):
        steps_from_recipe(recipe, 40_000, 4)


def test_every_shipped_recipe_has_the_form(root):
    for path in root.glob("yaml/**/*.yaml"):
        recipes.resolve(path)


@pytest.mark.parametrize("extends", ["5", "[null]", "[[a.yaml]]", '""'])
def test_extends_is_a_file_or_a_list_of_them(tmp_path, extends):
    path = write(tmp_path, a=f"extends: {extends}")
    with pytest.raises(ToolkitError, match="a yaml file or a list of them was expected"):
        recipes.resolve(path)


def test_a_plain_text_is_one_file(tmp_path):
    assert recipes.resolve(write(tmp_path, a="extends: b.yaml\nx: 1", b="y: 2")) == {"x": 1, "y": 2}


def test_a_circle_is_named(tmp_path):
    path = write(tmp_path, a="extends: [b.yaml]", b="extends: a.yaml")
    with pytest.raises(ToolkitError, match=r"a\.yaml extends itself: a\.yaml -> b\.yaml -> a\.yaml"):
        recipes.resolve(path)


@pytest.mark.parametrize(("mode", "recipe", "missing"), [
    ("finetune", "lora_finetune", ["context", "runner_config", "callbacks", "train_dataset", "optimizer"]),
    ("eval", "lora_finetune", ["context.device_target", "metric", "model.model_config.seq_length"]),
    ("predict", "predict_mmlu", ["context", "model.arch", "trainer"]),
])
def test_what_a_run_mode_needs_is_asked_for_at_once(root, tmp_path, mode, recipe, missing):
    content = yaml.safe_load((root / f"yaml/{recipe}.yaml").read_text())
    for path in missing:
        *parents, last = path.split(".")
        functools.reduce(dict.__getitem__, parents, content).pop(last)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ToolkitError) as error:
        recipes.resolve(tmp_path / "a.yaml", mode=mode)
    listed = str(error.value).partition(": ")[2].partition(" are missing, which run_mode")[0].split(", ")
    assert sorted(listed) == sorted(missing)
    recipes.resolve(tmp_path / "a.yaml")  # a part of a recipe is allowed where nothing is needed of it


def test_missing_and_wrong_settings_come_together(tmp_path):
    path = write(tmp_path, a="context: 5\nmodel: {arch: null}")
    with pytest.raises(ToolkitError, match=r"context must be .* found 5; .*model.*trainer are missing"):
        recipes.resolve(path, mode="predict")


@pytest.mark.parametrize(("text", "found"), [("seed: 1", "None"), ("run_mode: train", "'train'")])
def test_a_recipe_says_what_it_is_for(tmp_path, text, found):
    with pytest.raises(ToolkitError, match=f"run_mode must be finetune or eval or predict, found {found}"):
        recipes.resolve(write(tmp_path, a=text), mode=OWN_MODE)


def test_a_flag_gives_what_the_recipe_leaves_open(root):
    config, unset = root / "yaml/predict_mmlu.yaml", ["context.device_target=null"]
    assert recipes.resolve(config, overrides=unset, mode=OWN_MODE, given=["context.device_target"])
    with pytest.raises(ToolkitError, match=r"context\.device_target is missing, which run_mode predict"):
        recipes.resolve(config, overrides=unset, mode=OWN_MODE)
