"""The cost model: steps, tokens and hours against sums done by hand."""

from datetime import datetime

import pytest

from research_internlm import plan, recipes
from research_internlm.model.lora import count_parameters
from research_internlm.planning import cost
from research_internlm.recipes.schedule import Steps, plan_from_recipe, steps_from_recipe, warnings
from research_internlm.runs.train_log_file import TrainLogLine, append
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_json, write_manifest, write_text
from tests.helpers.run_info import manifest, run_info


@pytest.fixture(scope="module")
def recipe(root):
    return recipes.load_yaml(root / "yaml/lora_finetune.yaml")


def by_layout(found):
    return {(row.layout, row.seq_length): row for row in found}


def test_the_measured_shape_costs_what_was_measured(recipe):
    # 1,000 steps of 16 rows at 3.6 s are one hour.
    steps = Steps(16_000, cards=4, batch_size=4, epochs=1)
    measured = cost.Measured(step_ms=3_600, tokens=4 * 1024, seq_length=1024)
    row = by_layout(cost.costs(recipe, steps, 146 * 16_000, measured))["padded", 1024]
    assert (row.steps, row.tokens, row.hours) == (1_000, 16_384_000, pytest.approx(1.0))
    assert row.useful == pytest.approx(146 / 1025)


def test_a_longer_row_pays_for_its_tokens_and_its_attention(recipe):
    config = recipes.model_config(recipe)
    measured = cost.Measured(step_ms=1_000, tokens=4 * 1024, seq_length=1024)
    # 2 x 6.8994e9 + 0.5369e9 FLOPs a token at 1,024; 0.5369e9 more at 2,048; twice the tokens.
    doubled = cost.step_ms(measured, 4 * 2048, 2048, config, count_parameters(config))
    assert doubled == pytest.approx(2_000 * (2 * 6.8994 + 1.0737) / (2 * 6.8994 + 0.5369), rel=1e-4)


def test_packing_saves_the_padding(recipe):
    steps = Steps(138_020, cards=4, batch_size=4, epochs=4, sink_size=2)
    found = by_layout(cost.costs(recipe, steps, 146 * 138_020, cost.Measured(1_000, 4 * 1024, 1024), [512]))
    # 146 x 138,020 tokens in rows of 1,014 (99 % of 1,025): 19,873 rows, 6.945 samples a row. One row a card
    # is 27.8 samples an update, the nearest to the report's 16.
    packed, padded = found["packed", 1024], found["padded", 1024]
    assert (packed.rows, packed.batch_size, packed.samples) == (19_873, 1, pytest.approx(27.78, abs=0.01))
    assert packed.steps == 4 * 4_969  # 19,873 / 4 rows a card, rounded up
    assert (padded.batch_size, padded.samples, padded.steps) == (4, 16, 34_504)
    assert padded.hours / packed.hours == pytest.approx(4 * 34_504 / 19_876)
    assert packed.useful == pytest.approx(0.99, abs=1e-3)
    # In rows of 507 (99 % of 513): 39,746 of them, 3.47 samples a row, 13.9 an update.
    short = found["packed", 512]
    assert (short.batch_size, short.samples) == (1, pytest.approx(13.89, abs=0.01))


def test_the_packed_recipe_sees_its_padded_twin(root):
    recipe = recipes.resolve(root / "yaml/lora_finetune_packed.yaml")
    steps = Steps(35_000, cards=4, batch_size=1, epochs=4)
    found = by_layout(cost.costs(recipe, steps, 146 * 138_020, None, [1024], samples=138_020))
    assert (found["padded", 1024].batch_size, found["padded", 1024].steps) == (4, 34_504)


def test_without_a_measured_step_there_are_steps_but_no_hours(recipe):
    found = cost.costs(recipe, Steps(1_600, 4, 4, 1), 146 * 1_600, None, [512])
    assert [row.seq_length for row in found] == [512, 512, 1024, 1024]
    assert all(row.hours is None and row.steps for row in found)


def run_folder(root, folder, step_times):
    folder.mkdir()
    recipe = recipes.resolve(root / "yaml/lora_finetune.yaml", overrides=["runner_config.sink_mode=False"])
    recipes.write_resolved(recipe, folder / "resolved_config.yaml")
    write_json(folder / "run.json", run_info(2, 800))
    write_text(folder / "worker_0.log", "".join(
        f"2026-11-23 10:00:{step:02} - mindformers - INFO - {{ Epoch:[  1/  4], step:[{step:5}/  100], "
        f"loss:[1.0/1.0], per_step_time: {ms}ms, lr: 5e-05, overflow cond: False, loss_scale: 16384.0, "
        "global_norm: [1.0]\n" for step, ms in enumerate(step_times, 1)))
    return folder


def test_a_run_s_logs_give_the_step_without_its_compilation(root, tmp_path, recipe):
    run = run_folder(root, tmp_path / "run", [90_000, 9_000, 210, 190, 200])
    assert cost.measured_run(run, recipe) == cost.Measured(200, 4 * 1024, 1024)
    for step, ms in enumerate([90_000.5, 9_000.5, 210.5, 190.25, 200.75], 1):
        append(run / "train_log.jsonl", TrainLogLine(
            step, 400, 1, 1.0, ms, 5e-5, False, 16384.0, 1.0, datetime(2026, 11, 23), 0, None, None, 1.0))
    assert cost.measured_run(run, recipe).step_ms == 200.75  # unrounded where the run has them
    with pytest.raises(ToolkitError, match="may hold compilation"):
        cost.measured_run(run_folder(root, tmp_path / "short", [90_000, 9_000]), recipe)


@pytest.mark.parametrize(("change", "words"), [
    ({"model": {"model_config": {"num_layers": 1}}}, r"num_layers 32 \(the recipe: 1\)"),
    ({"context": {"device_target": "CPU"}}, r"device_target Ascend \(the recipe: CPU\)"),
    ({"model": {"model_config": {"intermediate_size": 64}}}, r"intermediate_size 11008 \(the recipe: 64\)"),
])
def test_a_step_of_another_model_predicts_nothing(root, tmp_path, recipe, change, words):
    run = run_folder(root, tmp_path / "run", [1, 1, 1_000])
    with pytest.raises(ToolkitError, match=words):
        cost.measured_run(run, recipes.merge(recipe, change))
    rows = {"model": {"model_config": {"seq_length": 2048}}, "runner_config": {"batch_size": 1}}
    assert cost.measured_run(run, recipes.merge(recipe, rows)).step_ms == 1_000


def data_file(folder, **facts):
    data = folder / "train.mindrecord"
    data.write_bytes(b"rows")
    write_manifest(data, **manifest(1600, **{
        "special_ids": {"vocab_size": 103168}, "parts": [{"file": data.name, "bytes": 4, "sha256": "0" * 64}],
        **facts}))
    return data


@pytest.mark.parametrize(("facts", "words"), [
    ({"record_length": 65, "seq_length": 64}, ["65-token rows", "1025-token rows"]),
    ({"packed": True}, ["is packed"]),
    ({"special_ids": {"vocab_size": 1184}}, ["1184 pieces", "103168"]),
])
def test_a_file_the_recipe_cannot_train_on_is_not_planned(root, tmp_path, facts, words):
    data = data_file(tmp_path, **facts)
    with pytest.raises(ToolkitError) as refused:
        plan.main(["--config", str(root / "yaml/lora_finetune.yaml"), "--train_dataset", str(data)])
    assert all(word in str(refused.value) for word in words)


def test_plan_prints_the_choice(root, tmp_path, capsys):
    data = data_file(tmp_path)
    config = ["--config", str(root / "yaml/lora_finetune.yaml"), "--train_dataset", str(data)]
    plan.main([*config, "--step_time_ms", "1000"])
    out = capsys.readouterr().out
    assert "1,600 rows on 4 cards x batch 4 = 100 steps an epoch" in out
    rows = [line.split() for line in out.splitlines() if "packed" in line or "padded" in line]
    # 4 epochs of 100 steps of a second are 0.11 h. 146 x 1,600 tokens are 231 rows of 1,014, 58 a card.
    assert rows[2] == ["1024", "padded", "1,600", "4", "16.0", "400", "6,553,600", "14.2%", "0.11"]
    assert rows[3] == ["1024", "packed", "231", "1", "27.7", "232", "950,272", "98.7%", "0.02"]
    run = run_folder(root, tmp_path / "run", [1, 1, 1_000])  # 2 cards; 4 work no slower
    plan.main([*config, "--measured", str(run)])
    assert rows[2] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("fill", [0.98, 0.99, 0.997])
def test_the_packed_recipe_keeps_the_five_however_full_its_rows(root, fill):
    recipe = recipes.resolve(root / "yaml/lora_finetune_packed.yaml")
    steps = steps_from_recipe(recipe, round(146 * 138_020 / 577 / fill), cards=4)
    assert not warnings(plan_from_recipe(recipe, steps), steps)
