"""Recipes: merging, overrides, and the check of every key against MindFormers' own classes."""

import pytest
import yaml

from research_internlm import recipes
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import ROOT

RECIPES = sorted((ROOT / "yaml").glob("*.yaml"))
OVERLAY = ROOT / "yaml" / "overlays" / "cpu_tiny.yaml"


def write(path, value):
    path.write_text(yaml.safe_dump(value))
    return path


def test_later_layers_win_and_lists_of_components_merge_by_type(tmp_path):
    base = write(tmp_path / "base.yaml", {"a": {"x": 1, "y": 2}, "callbacks": [
        {"type": "One", "steps": 1}, {"type": "Two", "steps": 2}], "plain": [1, 2]})
    overlay = write(tmp_path / "over.yaml", {"a": {"y": 3}, "callbacks": [{"type": "Two", "steps": 20}],
                                             "plain": [9]})
    merged = recipes.resolve(base, [overlay], ["a.x=10", "callbacks.One.steps=5.0e-1", "a.new=[1, 2]"])
    assert merged == {"a": {"x": 10, "y": 3, "new": [1, 2]}, "plain": [9],
                      "callbacks": [{"type": "One", "steps": 0.5}, {"type": "Two", "steps": 20}]}


def test_resolved_recipe_shares_nothing_and_is_written_without_anchors(tmp_path):
    source = tmp_path / "anchored.yaml"
    source.write_text("one: &shared {dir: ''}\ntwo: *shared\n")
    resolved = recipes.resolve(source, (), ["one.dir=/data"])
    assert resolved["two"] == {"dir": "/data"}  # an alias stays one setting
    written = recipes.write_resolved(resolved, tmp_path / "resolved.yaml")
    assert "&" not in written.read_text() and recipes.load_yaml(written) == resolved


def test_null_takes_a_component_out(root):
    config = root / "yaml/lora_assistant.yaml"
    resolved = recipes.resolve(config, overrides=["callbacks.AnswerMonitor=null"])
    assert recipes.callback(recipes.resolve(config), "AnswerMonitor")["every_n_steps"] == 12
    assert [item["type"] for item in resolved["callbacks"]] == [
        "MFLossMonitor", "UsefulTokensMonitor", "CheckpointMonitor"]
    with pytest.raises(ToolkitError, match="it has MFLossMonitor"):
        recipes.resolve(config, overrides=["callbacks.AnswersMonitor=null"])


def test_an_empty_answer_scores_nothing_so_squad_asks_for_a_token(root):
    """The engine's own tests hold that no answer is shorter; whether that token prints is free."""
    recipe = recipes.resolve(root / "yaml/predict_eval_squad.yaml")
    assert recipe["model"]["model_config"]["min_new_tokens"] == 1


@pytest.mark.parametrize(("override", "message"), [
    ("model.model_confg.seq_length=1", r"no 'model_confg' there; it has model_config, arch"),
    ("callbacks.LossMonitor.x=1", "it has MFLossMonitor, UsefulTokensMonitor, CheckpointMonitor"),
    ("=3", "not of the form key.path=value"),
    ("seed.deep=1", "seed is not a mapping"),
])
def test_an_override_that_leads_nowhere_says_what_is_there(override, message):
    with pytest.raises(ToolkitError, match=message):
        recipes.resolve(ROOT / "yaml" / "lora_finetune.yaml", (), [override])


@pytest.mark.parametrize("content", ["- a list\n", "key: [unclosed\n", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ToolkitError, match=r"bad\.yaml"):
        recipes.load_yaml(path)


@pytest.mark.model
@pytest.mark.parametrize("overlays", [(), (OVERLAY,)], ids=["npu", "cpu"])
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_passes_the_check(path, overlays):
    from research_internlm.recipes.check import check
    from research_internlm.training import registered  # noqa: F401 (what the check looks up)

    check(recipes.resolve(path, overlays))


@pytest.mark.model
@pytest.mark.parametrize(("override", "message"), [
    ("model.model_config.seq_lenght=1024", "seq_lenght .did you mean seq_length"),
    ("model.model_config.seq_length='1024'", "seq_length must be int"),
    ("lr_schedule.learning_rate=5e-5", "must be int or float, found '5e-5' .yaml reads 5e-5 as text"),
    ("optimizer.type=FP32StateAdamWeightDecay", "'FP32StateAdamWeightDecay' is not registered"),
    ("optimizer.beta1=0.9", "unknown key optimizer.AdamW..beta1"),
    ("callbacks.CheckpointMonitor.type=ObsMonitor", "'ObsMonitor' is not registered"),
    ("runner_config.epochs=True", "epochs must be int, found True"),
    ("tensorboard={tensorboard_dir: a, log_timers: True}", "unknown key tensorboard.log_timers"),
    ("tensorboard={tensorboard_dir: 1}", "tensorboard.tensorboard_dir must be str, found 1"),
    ("tensorboard={tensorboard_queue_size: 5}", "tensorboard names no tensorboard_dir"),
    ("tensorboard=True", "tensorboard must be a mapping, found True"),
    ("train_datset={}", "unknown key train_datset .did you mean train_dataset"),
    ("model.model_config.pet_config.rank=8", "unknown key model.model_config.pet_config.rank"),
    ("runner_wrapper.scale_sense.loss_scale=1", "unknown key .*scale_sense.DynamicLossScaleUpdateCell"),
])
def test_wrong_settings_are_found_before_anything_is_built(override, message):
    from research_internlm.recipes.check import check
    from research_internlm.training import registered  # noqa: F401 (what the check looks up)

    with pytest.raises(ToolkitError, match=message):
        check(recipes.resolve(ROOT / "yaml" / "lora_finetune.yaml", (), [override]))


@pytest.mark.model
def test_all_findings_come_at_once():
    from research_internlm.recipes.check import check
    from research_internlm.training import registered  # noqa: F401 (what the check looks up)

    with pytest.raises(ToolkitError, match=r"2 wrong setting"):
        check(recipes.resolve(ROOT / "yaml" / "lora_finetune.yaml", (), ["sed=1", "runner_config.epoch=1"]))


@pytest.mark.parametrize("recipe", [{}, {"model": None}, {"model": "x"}, {"model": {"model_config": [1]}}])
def test_a_model_config_that_is_no_mapping_is_none(recipe):
    with pytest.raises(ToolkitError, match=r"the config has no model\.model_config"):
        recipes.model_config(recipe)
