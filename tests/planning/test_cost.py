"""The cost model: steps, tokens and hours against sums done by hand."""

from datetime import datetime

import pytest

from research_internlm import plan, recipes
from research_internlm.planning import cost, cost_table, flops, points, step_sources
from research_internlm.planning.flops import Shape
from research_internlm.planning.points import Point
from research_internlm.recipes.schedule import Steps, plan_from_recipe, steps_from_recipe, warnings
from research_internlm.runs.train_log_file import TrainLogLine, append
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_json, write_manifest, write_text
from tests.helpers.run_info import manifest, run_info


@pytest.fixture(scope="module")
def recipe(root):
    return recipes.load_yaml(root / "yaml/lora_finetune.yaml")


def shape(rows, length, recompute=True, packed=False, places=32):
    return Shape(rows=rows, seq_length=length, packed=packed, recompute=recompute, head_places=places)


def model_of(recipe, *steps):
    config = recipes.model_config(recipe)
    return cost.fit([Point(shape=one, step_ms=ms) for one, ms in steps], config, config, "test", True)


def by_layout(found):
    return {(row.layout, row.seq_length): row for row in found}


def test_the_measured_shape_costs_what_was_measured(recipe):
    # 1,000 steps of 16 rows at 3.6 s are one hour.
    steps = Steps(16_000, cards=4, batch_size=4, epochs=1)
    measured = model_of(recipe, (shape(4, 1024), 3_600))
    row = by_layout(cost_table.costs(recipe, steps, 146 * 16_000, measured))["padded", 1024]
    assert (row.steps, row.tokens, row.hours.best) == (1_000, 16_384_000, pytest.approx(1.0))
    assert not row.hours.is_wide
    assert row.useful == pytest.approx(146 / 1025)


def test_the_work_of_a_step_by_hand(recipe):
    # 32 layers of 4 x 4096^2 + 3 x 4096 x 11008 weights are 6,476,005,376; the head has 103,168 x 4,096.
    config = recipes.model_config(recipe)
    once = flops.step(config, shape(4, 1024, recompute=False))
    assert once.weights == 2 * (2 * 4_096 * 6_476_005_376 + 2 * 128 * 422_576_128)
    assert once.attention == 3 * 4 * 32 * 4_096 * 4_096 * 1_024
    again = flops.step(config, shape(4, 1024))
    assert again.weights - once.weights == 2 * 4_096 * 6_476_005_376  # the head is not computed again
    assert again.attention / once.attention == pytest.approx(4 / 3)
    full = flops.step({**config, "pet_config": None}, shape(4, 1024, recompute=False))
    assert full.weights == 1.5 * once.weights and full.attention == once.attention


def test_a_longer_row_pays_for_its_tokens_and_its_attention(recipe):
    model = model_of(recipe, (shape(4, 1024, False), 1_000))
    # TFLOPs: layers 106.103, head at 128 places 0.216, attention 6.597; doubled 212.206, 0.216, 26.388.
    assert model.step(shape(4, 2048, False)).best == pytest.approx(1_000 * 238.810 / 112.916, rel=1e-5)


def test_packing_saves_the_padding(recipe):
    steps = Steps(138_020, cards=4, batch_size=4, epochs=4, sink_size=2)
    model = model_of(recipe, (shape(4, 1024), 1_000))
    found = by_layout(cost_table.costs(recipe, steps, 146 * 138_020, model, [512]))
    # 146 x 138,020 tokens in rows of 1,014 (99 % of 1,025): 19,873 rows, 6.945 samples a row. One row a card
    # is 27.8 samples an update, the nearest to the report's 16.
    packed, padded = found["packed", 1024], found["padded", 1024]
    assert (packed.rows, packed.batch_size, packed.samples) == (19_873, 1, pytest.approx(27.78, abs=0.01))
    assert packed.steps == 4 * 4_969  # 19,873 / 4 rows a card, rounded up
    assert (padded.batch_size, padded.samples, padded.steps) == (4, 16, 34_504)
    # A fourth of the positions in proportional time; the packed row's head has 184 places, the others' 128.
    assert padded.hours.best / packed.hours.best == pytest.approx(4 * 34_504 / 19_876, rel=0.02)
    # One point does not tell a floor: the short step may take as long as the measured one.
    assert packed.hours.high == pytest.approx(padded.hours.best * 19_876 / 34_504)
    assert packed.useful == pytest.approx(0.99, abs=1e-3)
    # In rows of 506 (98.8 % of 513): 39,824 of them, 3.466 samples a row, 13.86 an update.
    short = found["packed", 512]
    assert (short.batch_size, short.samples) == (1, pytest.approx(13.86, abs=0.01))


def test_the_packed_recipe_sees_its_padded_twin(root):
    recipe = recipes.resolve(root / "yaml/lora_finetune_packed.yaml")
    steps = Steps(35_000, cards=4, batch_size=1, epochs=4)
    found = by_layout(cost_table.costs(recipe, steps, 146 * 138_020, None, [1024], samples=138_020))
    assert (found["padded", 1024].batch_size, found["padded", 1024].steps) == (4, 34_504)


def test_without_a_measured_step_there_are_steps_but_no_hours(recipe):
    found = cost_table.costs(recipe, Steps(1_600, 4, 4, 1), 146 * 1_600, None, [512])
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
    own = recipes.merge(recipe, {"recompute_config": {"recompute": True}})
    assert step_sources.from_run(run, own).step(shape(4, 1024)).best == pytest.approx(200)
    for step, ms in enumerate([90_000.5, 9_000.5, 210.5, 190.25, 200.75], 1):
        append(run / "train_log.jsonl", TrainLogLine(
            step, 400, 1, 1.0, ms, 5e-5, False, 16384.0, 1.0, datetime(2026, 11, 23), 0, None, None, 1.0))
    exact = step_sources.from_run(run, recipe).step(shape(4, 1024)).best
    assert exact == pytest.approx(200.75)  # unrounded where the run has them
    with pytest.raises(ToolkitError, match="may hold compilation"):
        step_sources.from_run(run_folder(root, tmp_path / "short", [90_000, 9_000]), recipe)


@pytest.mark.parametrize(("change", "words"), [
    ({"model": {"model_config": {"num_layers": 1}}}, r"num_layers 32 \(the recipe: 1\)"),
    ({"context": {"device_target": "CPU"}}, r"device_target Ascend \(the recipe: CPU\)"),
    ({"model": {"model_config": {"intermediate_size": 64}}}, r"intermediate_size 11008 \(the recipe: 64\)"),
])
def test_a_step_of_another_model_predicts_nothing(root, tmp_path, recipe, change, words):
    run = run_folder(root, tmp_path / "run", [1, 1, 1_000])
    with pytest.raises(ToolkitError, match=words):
        step_sources.from_run(run, recipes.merge(recipe, change))
    rows = {"model": {"model_config": {"seq_length": 2048}}, "runner_config": {"batch_size": 1}}
    assert "one step of 1000 ms" in step_sources.from_run(run, recipes.merge(recipe, rows)).source


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
    # On a floor as long as the measured step the 232 steps would take 0.06 h.
    assert rows[3] == ["1024", "packed", "231", "1", "27.7", "232", "950,272", "98.7%", "0.02", "0.02", "to",
                       "0.06"]
    run = run_folder(root, tmp_path / "run", [1, 1, 1_000])  # 2 cards; 4 work no slower
    plan.main([*config, "--measured", str(run)])
    assert rows[2] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("fill", [0.98, 0.99, 0.997])
def test_the_packed_recipe_keeps_the_five_however_full_its_rows(root, fill):
    recipe = recipes.resolve(root / "yaml/lora_finetune_packed.yaml")
    steps = steps_from_recipe(recipe, round(146 * 138_020 / 1025 / fill), cards=4)
    assert not warnings(plan_from_recipe(recipe, steps), steps)


# Three points: one of many tokens, one on each floor. Of the table's order: 2 and 3 are 4 x 1024 without
# recomputing, 5, 7, 8, 10 lie on the floor, 4 and 6 on that with recomputing.
@pytest.mark.parametrize("three", [(long, short, again) for long in (2, 3) for short in (5, 7, 8, 10)
                                   for again in (4, 6)])
def test_three_h100_points_predict_the_other_eight(recipe, three):
    config = recipes.model_config(recipe)
    model = cost.fit([points.TABLE[place] for place in three], config, config, "three", True)
    errors = [model.step(point.shape).best / point.step_ms - 1 for place, point in enumerate(points.TABLE)
              if place not in three]
    assert len(errors) == 8 and max(map(abs, errors)) <= 0.12
    assert not model.unknown


def test_the_whole_table_is_met(recipe):
    model = step_sources.from_table(recipe)
    assert max(abs(model.step(point.shape).best / point.step_ms - 1) for point in points.TABLE) < 0.1
    assert model.fits[0].floors == {False: pytest.approx(231, abs=1), True: 448}


def test_a_floor_without_a_point_is_a_range(recipe):
    model = model_of(recipe, (shape(1, 256, False), 200), (shape(1, 1024, False), 200),
                     (shape(4, 1024, False), 400))
    predicted = model.step(shape(1, 256, True))
    assert (predicted.low, predicted.high) == (pytest.approx(300), pytest.approx(400))
    assert "without recomputing" in model.unknown[0]


def test_a_fixed_part_is_told_from_a_floor_by_a_third_point(recipe):
    config = recipes.model_config(recipe)
    shapes = [shape(1, 256, False), shape(1, 1024, False), shape(4, 1024, False)]
    line = [(one, 50 + 3e-12 * flops.step(config, one).total) for one in shapes]
    between = shape(2, 1024, False)
    expected = 50 + 3e-12 * flops.step(config, between).total
    assert model_of(recipe, *line).step(between).best == pytest.approx(expected, rel=1e-3)
    two = model_of(recipe, line[0], line[2]).step(between)
    assert two.is_wide and two.low <= expected <= two.high * 1.001


def test_attention_has_a_rate_of_its_own_where_rows_of_equal_tokens_differ(recipe):
    config = recipes.model_config(recipe)

    def milliseconds(one):
        work = flops.step(config, one)
        return 2e-12 * work.weights + 9e-12 * work.attention

    shapes = [shape(1, 256, False), shape(1, 1024, False), shape(4, 1024, False), shape(2, 2048, False)]
    model = model_of(recipe, *((one, milliseconds(one)) for one in shapes))
    other = shape(1, 4096, False)
    assert model.step(other).best == pytest.approx(milliseconds(other), rel=1e-3)


def test_a_model_of_half_the_layers_has_half_the_floor(recipe):
    half = step_sources.from_table(recipes.merge(recipe, {"model": {"model_config": {"num_layers": 16}}}))
    whole = step_sources.from_table(recipe)
    assert half.fits[0].floors[False] == pytest.approx(whole.fits[0].floors[False] / 2)
    assert step_sources.from_table(recipes.merge(recipe, {"context": {"device_target": "CPU"}})) is None


def test_points_that_no_step_could_have_are_said_to_scatter(recipe):
    model = model_of(recipe, (shape(1, 256, False), 400), (shape(1, 1024, False), 1_000),
                     (shape(4, 1024, False), 500), (shape(1, 256), 1_700))
    assert any("scatter" in text for text in model.unknown)
    assert not any("scatter" in text for text in step_sources.from_table(recipe).unknown)
