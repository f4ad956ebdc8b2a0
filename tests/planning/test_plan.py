"""Step arithmetic, the five checkpoints, estimates and the written yaml."""

import dataclasses
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from research_internlm import plan, recipes
from research_internlm.contest import scoring
from research_internlm.model.lora import count_parameters
from research_internlm.planning import memory, plan_yaml, points, run_plan
from research_internlm.planning.points import Point
from research_internlm.recipes.schedule import (
    CheckpointPlan,
    Steps,
    evenly_spaced,
    interval_to_the_end,
    last_evaluation,
    plan_from_recipe,
    save_points,
    search_plan,
    steps_from_recipe,
    warnings,
    writing_workers,
)
from research_internlm.shared.errors import ToolkitError


@pytest.fixture(scope="module")
def recipe(root):
    return recipes.load_yaml(root / "yaml/lora_finetune.yaml")


def test_the_reports_run():
    # 27,604 x 5 = 138,020 rows; 34,505 a card = 8,626 x 4 + 1, so one row a card is left over.
    steps = Steps(27_604 * 5, cards=4, batch_size=4, epochs=4, sink_size=2)
    assert (steps.per_epoch, steps.total, steps.dropped) == (8_626, 34_504, 4)
    planned = search_plan(steps, saves=10)
    assert (planned.interval, planned.eval_interval, planned.keep) == (3_452, 1_726, 10)
    assert planned.to_submit == [6_904, 13_808, 20_712, 27_616, 34_504]


@given(st.integers(1, 400), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_steps_equal_dealing_the_rows_in_turn(rows, cards, batch, drop):
    slots = -(-rows // cards) * cards
    dealt = [[index % rows for index in range(card, slots, cards)] for card in range(cards)]
    batches = [hand[start:start + batch] for hand in dealt for start in range(0, len(hand), batch)]
    used = [hand for hand in batches if len(hand) == batch or not drop]
    steps = Steps(rows, cards, batch, epochs=1, drop_remainder=drop)
    assert steps.per_epoch * cards == len(used)
    assert steps.dropped == rows - len({row for hand in used for row in hand})


@pytest.mark.model
@pytest.mark.parametrize("rows", [63, 322, 420])
def test_steps_equal_mind_dataset(rows, tmp_path):
    import mindspore.dataset as ds
    from mindspore.mindrecord import FileWriter

    path = str(tmp_path / "rows.mindrecord")
    writer = FileWriter(path, 1)
    writer.add_schema({"row": {"type": "int32"}}, "rows")
    writer.write_raw_data([{"row": row} for row in range(rows)])
    writer.commit()
    seen, sizes = set(), set()
    for card in range(4):
        data = ds.MindDataset(path, ["row"], num_shards=4, shard_id=card, shuffle=False).batch(4, True)
        sizes.add(data.get_dataset_size())
        for (batch,) in data.create_tuple_iterator(num_epochs=1, output_numpy=True):
            seen.update(batch.ravel().tolist())
    steps = Steps(rows, cards=4, batch_size=4, epochs=1)
    assert sizes == {steps.per_epoch}
    assert rows - len(seen) == steps.dropped


@given(st.integers(20, 100_000), st.integers(1, 4), st.sampled_from([5, 10, 20]))
def test_planned_checkpoints_survive_retention(sinks, sink_size, saves):
    steps = Steps(sinks * sink_size, cards=1, batch_size=1, epochs=1, sink_size=sink_size)
    planned = search_plan(steps, saves)
    assert len(planned.saved) <= 2 * saves or sinks < 40
    assert planned.to_submit is not None and set(planned.to_submit) <= set(planned.kept)
    assert planned.interval % sink_size == 0 and planned.eval_interval % sink_size == 0
    gaps = [after - before for before, after in zip([0, *planned.to_submit], planned.to_submit, strict=False)]
    assert max(gaps) - min(gaps) <= max(1, 0.1 * steps.total / 5, min(2 * sink_size, 0.25 * steps.total / 5))
    assert planned.to_submit[-1] == steps.total


def test_save_every_850_keep_10_spares_the_five():
    # docs/traps.md#retention-deletes-the-first-checkpoints
    steps = Steps(17_250, cards=1, batch_size=1, epochs=1)
    planned = CheckpointPlan.simulate(steps, 850, 10, 0)
    assert planned.to_submit == [3_400, 6_800, 10_200, 13_600, 17_250]
    assert planned.kept == [3_400, 6_800, 10_200, 12_750, 13_600, 14_450, 15_300, 16_150, 17_000, 17_250]
    assert CheckpointPlan.simulate(steps, 850, 5, 0).to_submit == planned.to_submit


def test_saves_that_cannot_be_even_are_named():
    steps = Steps(100, cards=1, batch_size=1, epochs=1)
    planned = CheckpointPlan.simulate(steps, 30, 3, 0)
    assert planned.kept == [60, 90, 100] and planned.to_submit is None
    assert "not 5 evenly spaced" in warnings(planned, steps)[0]


def test_the_run_end_is_saved_once():
    assert save_points(10, 5) == [5, 10]
    assert save_points(11, 5) == [5, 10, 11]
    assert save_points(3, 5) == [3]


def test_evenly_spaced_refuses_a_missing_or_doubled_fifth():
    assert evenly_spaced([20, 40, 60, 80, 100], 100) == [20, 40, 60, 80, 100]
    assert evenly_spaced([20, 40, 80, 100], 100) is None
    assert evenly_spaced([20, 40, 54, 80, 100], 100) is None
    assert evenly_spaced([], 100) is None
    assert evenly_spaced([1], 1) is None


@pytest.mark.parametrize(("interval", "total", "slack"), [
    (5_000, 30_000, 5_000),  # 5,000 and 10,000 apart: a sink this large is no rounding
    (6_000, 34_500, 2), (2_900, 17_250, 1), (5_000, 29_999, 1),  # 13 to 17 % behind the fifth
])
def test_uneven_at_full_size(interval, total, slack):
    assert evenly_spaced(save_points(total, interval), total, slack) is None
    assert evenly_spaced([interval * number for number in range(1, 6)], total, slack) is None


@pytest.mark.parametrize(("saved", "total", "five"), [
    (range(1, 7), 6, [1, 2, 4, 5, 6]),  # the best that six whole steps allow
    ([2, 4, 6, 8, 10, 11], 11, [2, 4, 6, 8, 11]),
    ([1, 3, 5, 7, 9], 10, None), ([1, 3, 5, 7, 9, 10], 10, None), ([2, 4, 6, 8, 9], 10, None),
    (save_points(819, 164), 819, [164, 328, 492, 656, 819]),  # scripts/demo.sh
    ([850 * number for number in range(1, 21)], 17_250, [3_400, 6_800, 10_200, 13_600, 17_000]),
])
def test_whole_steps_may_round_but_the_end_is_not_missed(saved, total, five):
    assert evenly_spaced(list(saved), total) == five


def test_a_sink_size_of_minus_one_is_an_epoch(recipe):
    def run(sink_size, **runner):
        changed = recipes.merge(recipe, {"runner_config": {"sink_size": sink_size, **runner}})
        return steps_from_recipe(changed, 138_020, 4)

    assert (run(-1).sink_size, run(-1).total) == (8_626, 34_504)
    # Saves only fall on epochs' ends then: four of them hold no five, a hundred do.
    with pytest.raises(ToolkitError, match="sink_size 8,626"):
        search_plan(run(-1), 5)
    assert search_plan(run(-1, epochs=100), 5).to_submit == [20 * 8_626 * number for number in range(1, 6)]
    assert run(-1, sink_mode=False).sink_size == 1


@pytest.mark.parametrize(("key", "value"), [
    ("batch_size", 0), ("batch_size", "abc"), ("epochs", 0), ("epochs", 1.5), ("epochs", True),
    ("sink_size", 0), ("sink_size", -2), ("sink_size", None)])
def test_a_number_that_is_none_is_named(recipe, key, value):
    broken = recipes.merge(recipe, {"runner_config": {key: value}})
    with pytest.raises(ToolkitError, match=f"runner_config.{key} is {value!r}, but has to be a whole number"):
        steps_from_recipe(broken, 138_020, 4)


@pytest.mark.parametrize(("key", "value"), [("save_checkpoint_steps", 0), ("keep_checkpoint_max", -1)])
def test_a_monitor_s_number_that_is_none_is_named(recipe, key, value):
    broken = recipes.merge(recipe, {"callbacks": [{"type": "CheckpointMonitor", key: value}]})
    with pytest.raises(ToolkitError, match=f"callbacks.CheckpointMonitor.{key} is {value}"):
        plan_from_recipe(broken, steps_from_recipe(broken, 138_020, 4))


def test_the_interval_that_ends_on_the_last_step():
    # 34,504 = 2^3 x 19 x 227: 1,816 = 34,504 / 19 is its divisor next to 1,726, and a multiple of 2.
    steps = Steps(138_020, cards=4, batch_size=4, epochs=4, sink_size=2)
    assert last_evaluation(1_726, steps.total) == 32_794
    assert interval_to_the_end(1_726, steps) == 1_816
    assert interval_to_the_end(10, Steps(97, 1, 1, 1)) is None  # 97 is prime


def test_steps_that_never_fire_are_named():
    steps = Steps(1_000, cards=1, batch_size=1, epochs=1, sink_size=2)
    found = " ".join(warnings(CheckpointPlan.simulate(steps, 99, 0, 51), steps))
    assert "save_checkpoint_steps 99 is not a multiple" in found
    assert "eval_step_interval 51 is not a multiple" in found


def test_too_short_a_run_is_refused():
    with pytest.raises(ToolkitError, match="cannot hold 5 evenly spaced"):
        search_plan(Steps(4, cards=1, batch_size=1, epochs=1), saves=5)
    with pytest.raises(ToolkitError, match="--saves 8 is not a multiple of the 5"):
        search_plan(Steps(4_000, cards=1, batch_size=1, epochs=1), saves=8)


def test_memory_of_the_7b_recipe(recipe):
    # By hand: 7.32e9 fp16 = 13.64 GiB; 16.8 M x 20 bytes (parameter, gradient, scaled gradient, Adam) = 0.31;
    # 4 x 32 places x 103,168 x 20 bytes = 0.25. Full recompute keeps 2 x 4,096 x 4,096 x 32 = 1.00 GiB and
    # one layer of 4,096 x (8 x 4,096 norms + 8 x 4,096 attention + 6 x 11,008 gated + 12 x 4,096 and
    # 4 x 2 x 16 adapters) = 0.69.
    needed = memory.device_memory(recipe, count_parameters(recipes.model_config(recipe)))
    assert [round(part / memory.GIB, 2) for part in (
        needed.weights, needed.trainable, needed.logits, needed.activations)] == [13.64, 0.31, 0.25, 1.69]


@pytest.mark.parametrize("point", points.TABLE, ids=lambda point: f"{point.shape}, {point.shape.head_places}")
def test_memory_is_within_ten_percent_of_the_h100_peaks(recipe, point):
    count = count_parameters(recipes.model_config(recipe))
    needed = memory.device_memory(recipe, count, point.shape, memory.PYTORCH)
    assert needed.total == pytest.approx(point.peak_bytes, rel=0.1)


def test_memory_without_recompute_and_without_flash_attention(recipe):
    # docs/traps.md#memory-without-recomputing
    kept = recipes.merge(recipe, {"recompute_config": {"recompute": False}})
    plain = recipes.merge(kept, {"model": {"model_config": {"use_flash_attention": False}}})
    count = count_parameters(recipes.model_config(recipe))
    assert memory.device_memory(kept, count).activations / memory.GIB == pytest.approx(22.1, abs=0.1)
    # Probabilities in float32 and float16: 4,096 x 32 heads x 1,024 x 6 bytes x 32 layers = 24 GiB.
    assert memory.device_memory(plain, count).activations / memory.GIB == pytest.approx(46.1, abs=0.1)


def test_measured_peaks_correct_the_estimate(recipe):
    count = count_parameters(recipes.model_config(recipe))

    def peaks(*shapes):
        found = [(one, memory.device_memory(recipe, count, one)) for one in shapes]
        return [Point(shape=one, step_ms=1.0, peak_bytes=round(
            2e9 + needed.weights + needed.trainable + 1.2 * (needed.logits + needed.activations)))
            for one, needed in found]

    shapes = [dataclasses.replace(point.shape, recompute=False) for point in points.TABLE]
    fitted = memory.fit_memory(recipe, count, peaks(*shapes[:3], shapes[5]))
    assert (fitted.fixed, fitted.scale) == (pytest.approx(2e9, rel=1e-3), pytest.approx(1.2, rel=1e-3))
    one = memory.fit_memory(recipe, count, peaks(shapes[0]))
    assert one.scale == 1.0 and one.total(memory.device_memory(recipe, count, shapes[0])) == pytest.approx(
        peaks(shapes[0])[0].peak_bytes)
    assert memory.fit_memory(recipe, count, []) == memory.MemoryFit()


def test_a_7b_checkpoint_is_about_15_gb_and_the_five_need_at_most_75(recipe):
    sizes = memory.save_bytes(recipe, count_parameters(recipes.model_config(recipe)))
    assert sizes.full == 7_321_948_160 * 2 + 16_777_216 * (4 + 8) <= 15e9
    assert sizes.state == 16_777_216 * (4 + 8) and sizes.adapter == 16_777_216 * 4
    steps = Steps(138_020, cards=4, batch_size=4, epochs=4, sink_size=2)
    planned = search_plan(steps, 10, only_five=True)
    [disk] = [line for line in run_plan.describe_cost(recipe, count_parameters(recipes.model_config(recipe)),
                                                      planned, 4) if line.startswith("disk:")]
    assert "written by rank 0: 5 full checkpoints of 14.85 GB (74.2 GB), 5 saves" in disk
    assert disk.startswith("disk: about 75.9 GB")  # 5 x 14.85 + 5 x 0.201 + 10 x 0.067


def test_parts_of_a_batch_are_in_memory_one_at_a_time(root):
    recipe = recipes.resolve(root / "yaml/lora_finetune_packed_1card.yaml")
    count = count_parameters(recipes.model_config(recipe))
    parts = recipes.merge(recipe, {"runner_wrapper": {"micro_batches": 4}})
    one = recipes.merge(recipe, {"runner_config": {"batch_size": 1}})
    assert memory.device_memory(parts, count) == memory.device_memory(one, count)


def test_only_the_five_are_full_where_there_are_five():
    steps = Steps(100, cards=1, batch_size=1, epochs=1)
    planned = CheckpointPlan.simulate(steps, 10, 3, 0, only_five=True)
    assert planned.full == planned.kept == planned.to_submit == [20, 40, 60, 80, 100]
    assert planned.states == [10, 30, 50, 70, 90] and planned.kept_states == [50, 70, 90]
    assert planned.saved == list(range(10, 101, 10))
    uneven = CheckpointPlan.simulate(steps, 30, 0, 0, only_five=True)
    assert uneven.full == [30, 60, 90, 100] and uneven.states == []


def test_only_data_parallel_ranks_hold_the_same_bits(recipe):
    assert writing_workers(recipe, 4) == 1
    for parallel in ({"parallel_mode": 1}, {}, {"parallel_mode": 0, "enable_parallel_optimizer": True}):
        assert writing_workers({**recipe, "parallel": parallel}, 4) == 4


def test_score_table_answers_what_rank_16_must_reach(recipe):
    lines = list(scoring.score_table(recipe, [4, 16], [".*wq|.*wk|.*wv|.*wo"], 0.9692))
    # Keke team: 4,194,304, .9767. By hand: 10 x 12,582,912 / 7,321e6 x 3/7 = 0.7366 points more.
    assert "4,194,304" in lines[2] and "0.9767" in lines[2] and "96.92%" in lines[2]
    assert "16,777,216" in lines[3] and "97.66%" in lines[3]


def test_written_yaml_keeps_every_other_line(root, tmp_path, capsys):
    source, target = root / "yaml/lora_finetune.yaml", tmp_path / "run.yaml"
    command = ["--config", str(source), "--items", "9600", "--cards", "2", "--saves", "5",
               "--write", str(target)]
    assert plan.main(command) == 0
    before, after = source.read_text().splitlines(), target.read_text().splitlines()
    changed = [line for line, new in zip(before, after, strict=True) if line != new]
    assert [line.split(":")[0].strip() for line in changed] == [
        "eval_step_interval", "data_parallel", "save_checkpoint_steps", "keep_checkpoint_max"]
    written = recipes.load_yaml(target)
    # 9,600 rows on 2 x 4 are 1,200 steps an epoch, 4,800 in all, five saves every 960.
    monitor = recipes.callback(written, "CheckpointMonitor")
    assert (monitor["save_checkpoint_steps"], monitor["keep_checkpoint_max"]) == (960, 5)
    assert written["eval_step_interval"] == 480 and written["parallel_config"]["data_parallel"] == 2
    with pytest.raises(ToolkitError, match="exists already"):
        plan.main(command)
    capsys.readouterr()


def test_written_yaml_holds_what_was_planned(root, tmp_path, capsys):
    config, overlay = root / "yaml/lora_finetune.yaml", root / "yaml/overlays/cpu_tiny.yaml"
    overrides = ["runner_config.epochs=2", "callbacks.CheckpointMonitor.prefix=mine",
                 "lr_schedule.new=[1, 2]", "model.model_config.pet_config=null"]
    target = tmp_path / "run.yaml"
    plan.main(["--config", str(config), "--overlay", str(overlay), "--items", "138020", *overrides,
               "--write", str(target)])
    expected = recipes.merge(recipes.resolve(config, [overlay], overrides), {
        # 8,626 x 2 = 17,252 steps; a tenth of them, in twos for the evaluation between two saves.
        "eval_step_interval": 863, "parallel_config": {"data_parallel": 4},
        "callbacks": [{"type": "CheckpointMonitor", "save_checkpoint_steps": 1_726,
                       "keep_checkpoint_max": 10}]})
    assert recipes.resolve(target) == expected
    capsys.readouterr()
    plan.main(["--config", str(target), "--items", "138020"])
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "words"), [
    (["runner_config.epochs=2", "--write", "{recipe}", "--overwrite"],
     "cannot be replaced by one that extends"),
    (["model.model_config.pet_config={lora_rank: 4, target_modules: .*wq}", "--write", "{folder}/o"],
     "replace whole sections"),
    (["--write", "/proc/x.yaml"], "/proc/x.yaml cannot be written"),
    (["--targets", "("], r"--targets '\(' is not a valid regular expression"),
    (["model.model_config.pet_config.target_modules=("],
     r"target_modules '\(' is not a valid regular expression"),
    (["model.model_config.pet_config.lora_rank=0"], "lora_rank is 0, but has to be a whole number"),
])
def test_what_cannot_be_planned_is_said(root, tmp_path, arguments, words):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((root / "yaml/lora_finetune.yaml").read_text())
    places = {"{recipe}": str(recipe), "{folder}/o": str(tmp_path / "o")}
    arguments = [places.get(text, text) for text in arguments]
    with pytest.raises(ToolkitError, match=words):
        plan.main(["--config", str(recipe), "--items", "138020", *arguments])


def test_an_unevaluated_end_is_said(root, capsys):
    plan.main(["--config", str(root / "yaml/lora_finetune.yaml"), "--items", "138020"])
    out = capsys.readouterr().out
    assert "the last at step 32,794" in out and "step 34,504, is not evaluated" in out and "1,816" in out
    assert "trainable parameters 16,777,216 of 7,321,948,160 (ratio 0.00229136; against the contest's" in out
    plan.main(["--config", str(root / "yaml/lora_finetune.yaml"), "--items", "16000"])  # 4,000 = 20 x 200
    assert "is not evaluated" not in capsys.readouterr().out


def test_missing_keys_are_named_together():
    text = "a: 1  # stays\ncallbacks:\n  - type: X\n    b: 2\n"
    assert yaml.safe_load(plan_yaml.set_scalars(text, {"callbacks.X.b": 5, "a": 3}, "f")) == {
        "a": 3, "callbacks": [{"type": "X", "b": 5}]}
    assert "# stays" in plan_yaml.set_scalars(text, {"a": 300}, "f")
    with pytest.raises(ToolkitError, match=r"f has no callbacks\.Y\.b, c to write"):
        plan_yaml.set_scalars(text, {"callbacks.Y.b": 5, "c": 3}, "f")


def test_command_line_errors(root, tmp_path):
    script = root / "research_internlm/plan.py"
    recipe = root / "yaml/lora_finetune.yaml"
    for arguments, message in (
        (["--config", recipe, "--train_dataset", tmp_path / "none"], "does not exist"),
        (["--config", recipe, "--items", "12"], "do not fill one step"),
    ):
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
    with pytest.raises(ToolkitError, match=r"train_dataset.* are missing, which run_mode finetune needs"):
        plan.main(["--config", str(root / "yaml/predict_mmlu.yaml"), "--items", "9"])
