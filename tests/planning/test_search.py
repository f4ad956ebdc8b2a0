"""The search for the cheapest run, its lines, its picture and what is written."""

import pytest

from research_internlm import plan, recipes
from research_internlm.model.lora import count_parameters
from research_internlm.planning import lengths, memory, points, run_hours, search, step_sources
from research_internlm.planning.flops import Shape
from research_internlm.planning.memory import GIB
from research_internlm.recipes.schedule import (
    Steps,
    plan_from_recipe,
    search_plan,
    steps_from_recipe,
    warnings,
)
from research_internlm.shared.errors import ToolkitError

SAMPLES = 138_020


def job_of(root, cards=4, **changes):
    recipe = recipes.merge(recipes.resolve(root / "yaml/lora_finetune.yaml"), changes)
    return search.Job(recipe=recipe, count=count_parameters(recipes.model_config(recipe)), samples=SAMPLES,
                      text_tokens=146 * SAMPLES, longest=None, cards=cards, saves=10,
                      model=step_sources.from_table(recipe), memory=memory.MemoryFit())


@pytest.fixture(scope="module")
def fronts(root):
    return search.fronts(job_of(root))


def test_the_front_holds_what_nothing_beats(fronts):
    narrow, wide, found = fronts
    within = [one for one in found if 12 <= one.samples <= 20]
    assert narrow and len(within) > len(narrow)
    for one in within:  # each is as slow or as dear as one of the front
        assert any(best.total_hours <= one.total_hours + 1e-3
                   and best.card_hours.best <= one.card_hours.best + 1e-3 for best in narrow)
    assert [one.total_hours for one in narrow] == sorted(one.total_hours for one in narrow)
    assert not any(12 <= one.samples <= 20 for one in wide)


def test_one_card_of_long_packed_rows_does_the_report_s_run(fronts):
    # By the H100 table: 35,264 steps on a floor of 231 ms are 2.26 h; 18.7 card-hours the report's way.
    cheapest = min(fronts[0], key=lambda one: one.card_hours.best)
    assert (cheapest.cards, cheapest.shape.packed, cheapest.shape.recompute) == (1, True, False)
    assert cheapest.hours.training.best == pytest.approx(2.26, abs=0.1)
    assert cheapest.learning_rate == pytest.approx(5e-5, rel=0.02)


def test_cards_are_no_more_than_allowed(root):
    assert {one.cards for one in search.choices(job_of(root, cards=1))} == {1}
    assert {one.cards for one in search.choices(job_of(root, cards=3))} == {1, 2, 3}


def test_memory_keeps_its_margin(root, fronts):
    assert max(one.memory_bytes for one in fronts[2]) <= 58 * GIB * 0.9
    small = list(search.choices(job_of(root, context={"max_device_memory": "20GB"})))
    assert small and max(one.memory_bytes for one in small) <= 18 * GIB


def test_rows_that_lose_samples_are_counted(fronts):
    # Of 62,480 real samples 2,430 are longer than 257 tokens, 45 than 577, none than 2,049.
    assert lengths.lost(62_480, 256, None) == 2_430 and lengths.lost(624_800, 576, None) == 450
    assert lengths.lost(62_480, 2048, None) == 0
    assert lengths.lost(62_480, 256, 257) == 0  # the data's own longest fits
    assert lengths.lost(62_480, 256, 258) == 2_430
    assert all(one.lost <= 0.001 * SAMPLES for one in fronts[2])
    assert min(one.shape.seq_length for one in fronts[2]) == 576


def test_saves_and_evaluations_are_part_of_the_hours(root):
    job = job_of(root)
    shape = Shape(rows=4, seq_length=1024, packed=False, recompute=False, head_places=32)
    steps = Steps(SAMPLES, 4, 4, 4, 2)
    hours = run_hours.run_hours(job.model, job.recipe, shape, steps, search_plan(steps, 10),
                                10 * 4 * 15e9)
    # 10 saves of 4 x 15 GB at 0.5 GB/s; 19 evaluations of 155 batches, each one forward pass.
    assert hours.saving.best == pytest.approx(10 * 4 * 30 / 3600)
    forward = job.model.forward(4, 1024, 1024).best
    assert hours.evaluation.best == pytest.approx(19 * 155 * forward / 3.6e6)
    assert 0.4 < forward / job.model.step(shape).best < 0.6  # half of a step without recomputing
    quiet = run_hours.run_hours(job.model, {"do_eval": False}, shape, steps, search_plan(steps, 10), 0)
    assert (quiet.evaluation.best, quiet.saving.best) == (0, 0)


def test_generation_pays_a_floor_a_token(root):
    model = job_of(root).model
    test = run_hours.Generation("T", 80, 100, 200, 10)
    base, tuned = (run_hours.generation_hours(model, test, 8, which).best for which in (False, True))
    # 10 batches; 200 or 10 tokens and one pass over the prompts, all on half the floor.
    half = model.fits[0].floors[False] / 2
    assert base == pytest.approx(10 * 201 * half / 3.6e6) and tuned == pytest.approx(10 * 11 * half / 3.6e6)


def config(root, *more):
    return ["--config", str(root / "yaml/lora_finetune.yaml"), "--items", str(SAMPLES), *map(str, more)]


def test_every_line_of_a_plan_without_a_probe_names_the_table(root, capsys):
    plan.main(config(root, "--price", 6.5))
    out = capsys.readouterr().out.partition("choices (")[2].splitlines()
    numbered = [line for line in out[2:] if line[:3].strip().isdigit() or line.startswith("own")]
    assert len(numbered) > 2 and all(f"[{points.TABLE_NAME}]" in line for line in numbered)
    own = numbered[0].split()
    card_hours, price = float(own[12]), float(own[13].replace(",", ""))
    assert own[:2] == ["own", "4"] and price == pytest.approx(6.5 * card_hours, abs=1)
    assert any("learning_rate" in line and "x the recipe's updates" in line for line in out)
    assert any("no NPU was measured" in line for line in out)


def test_on_a_cpu_the_table_says_nothing(root, capsys):
    overlay = ["--overlay", root / "yaml/overlays/cpu_tiny.yaml"]
    plan.main(config(root, *overlay))
    assert "choices" not in capsys.readouterr().out
    with pytest.raises(ToolkitError, match=r"give --probe F, which scripts/probe\.sh makes"):
        plan.main(config(root, *overlay, "--choice", 1))


def test_a_choice_is_written_with_everything_derived(root, tmp_path, capsys):
    target, picture = tmp_path / "run.yaml", tmp_path / "front.png"
    narrow = search.fronts(job_of(root))[0]
    number = len(narrow)
    plan.main(config(root, "--choice", number, "--write", target, "--picture", picture))
    out = capsys.readouterr().out
    written, wanted = recipes.resolve(target), narrow[-1]
    config_written = recipes.model_config(written)
    assert (config_written["packed"], config_written["seq_length"], written["runner_config"]["batch_size"],
            written["recompute_config"]["recompute"], written["parallel_config"]["data_parallel"]) == (
        True, wanted.shape.seq_length, wanted.shape.rows, False, 1)
    steps = steps_from_recipe(written, wanted.steps.rows, 1)
    written_plan = plan_from_recipe(written, steps)
    assert not warnings(written_plan, steps) and len(written_plan.to_submit) == 5
    assert written["lr_schedule"]["learning_rate"] == 5e-5  # within the band the recipe's stays
    assert f"--pack --seq_length {wanted.shape.seq_length} (training)" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ToolkitError, match="--choice 99: the plan has"):
        plan.main(config(root, "--choice", 99))


def test_outside_the_band_the_learning_rate_follows_the_square_root(fronts):
    other = next(one for one in fronts[1] if one.samples > 40)
    assert other.learning_rate == pytest.approx(5e-5 * (other.samples / 16) ** 0.5)
    written = search.overrides(other)["lr_schedule"]["learning_rate"]
    assert written == pytest.approx(other.learning_rate, rel=0.05)
