"""The probe: shapes, the file, going on after a kill, and real runs of a tiny model."""

import dataclasses
import json
from datetime import datetime

import pytest

from research_internlm import plan, recipes
from research_internlm import probe as probe_command
from research_internlm.launching import probe_run
from research_internlm.planning import probe
from research_internlm.runs.train_log_file import TrainLogLine, append
from research_internlm.shared import schema
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_json
from tests.helpers.warm import run_warm

TINY = [f"model.model_config.{key}={value}" for key, value in {
    "seq_length": 128, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 200}.items()]


@pytest.fixture(scope="module")
def recipe(root):
    overlay = root / "yaml/overlays/cpu_tiny.yaml"
    return recipes.resolve(root / "yaml/lora_finetune_packed.yaml", [overlay], TINY)


class Workers:
    """Stands for msrun: leaves what a run leaves, or fails at the shape that `broken` names."""

    def __init__(self, broken=()):
        self.ran, self.broken = [], broken

    def __call__(self, folder, recipe, shape, workers):
        self.ran.append(shape)
        if (shape.rows, shape.seq_length, shape.recompute) in self.broken:
            return 1, "Traceback ...\nRuntimeError: Out of memory\nmore\n"
        run = folder / "run"
        run.mkdir()
        # The first step compiles, then the kernels try partitions; then 10 ms a row.
        for step, ms in enumerate((9_000, *[90] * 31, 11, 10, 9, 10, 10), 1):
            append(run / "train_log.jsonl", TrainLogLine(
                step, 8, 1, 1.0, ms * shape.rows, 5e-5, False, 1.0, 1.0, datetime(2026, 11, 25), 0, None,
                None, 1.0))
        write_json(run / "peak_memory.json", {"bytes": 10**9, "kind": "resident"})
        write_json(run / "save_time.json", {"bytes": 2 * 10**9, "seconds": 8.0 + shape.rows})
        return 0, ""


def test_the_shapes_separate_floor_slope_attention_and_recomputing(recipe):
    shapes = probe.shapes(recipe)
    assert [(one.rows, one.seq_length, one.recompute) for one in shapes] == [
        (2, 32, True), (2, 32, False), (2, 64, False), (4, 128, False), (1, 512, False)]
    assert shapes[3].tokens == shapes[4].tokens  # only attention tells these apart
    assert all(one.packed for one in shapes)


def test_a_shape_is_run_without_saves_evaluation_or_weights(recipe):
    given = recipes.merge(recipe, {"do_eval": True, "load_checkpoint": "/base.ckpt",
                                   "runner_config": {"sink_mode": True, "sink_size": -1},
                                   "model": {"model_config": {"labels_per_row": 7}}})
    run = probe_run.shaped(given, probe.shapes(given)[4], 2)
    assert [item["type"] for item in run["callbacks"]] == ["MFLossMonitor", "PeakMemoryMonitor",
                                                        "SaveTimeMonitor"]
    assert (run["do_eval"], run["load_checkpoint"], run["use_parallel"]) == (False, "", True)
    assert run["runner_config"]["sink_size"] == 2  # an epoch a line would leave one line
    assert recipes.model_config(run)["labels_per_row"] is None  # that of the rows made for it


def test_points_are_medians_without_the_compiled_steps(recipe, tmp_path):
    found = probe_run.measure(recipe, 1, tmp_path / "probe.json", [].append, Workers())
    assert [point.step_ms for point in found.points] == [20, 20, 20, 40, 10]
    assert found.memory == "resident" and found.points[0].peak_bytes == 10**9
    assert found.save_bytes_per_second == pytest.approx(2e9 / 10)  # of the first shape, two rows
    assert probe.read_probe(tmp_path / "probe.json") == found
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]


def test_a_shape_that_fails_is_listed_and_the_others_stay(recipe, tmp_path):
    said = []
    found = probe_run.measure(recipe, 1, tmp_path / "probe.json", said.append, Workers([(1, 512, False)]))
    assert len(found.points) == 4
    assert found.failed == {"1 x 512 packed": "exit code 1: RuntimeError: Out of memory"}
    assert any("Out of memory" in line for line in said)
    everything = Workers([(one.rows, one.seq_length, one.recompute) for one in probe.shapes(recipe)])
    with pytest.raises(ToolkitError, match="no shape could be run: 2 x 32 packed, recompute: "):
        probe_run.measure(recipe, 1, tmp_path / "none.json", said.append, everything)
    assert not (tmp_path / "none.json").exists()


def test_a_recipe_at_fault_ends_the_probe_at_once(recipe, tmp_path):
    def refuses(*_):
        return 2, "noise\nerror: 1 wrong setting(s) in the config: x\n"

    with pytest.raises(ToolkitError, match=r"^1 wrong setting"):
        probe_run.measure(recipe, 1, tmp_path / "probe.json", [].append, refuses)


def test_an_interrupted_probe_goes_on_and_another_recipe_s_does_not(recipe, tmp_path):
    output = tmp_path / "probe.json"

    def killed(count):
        workers = Workers()

        def run(*arguments):
            if len(workers.ran) == count:
                raise KeyboardInterrupt
            return workers(*arguments)

        with pytest.raises(KeyboardInterrupt):
            probe_run.measure(recipe, 1, output, [].append, run)

    killed(2)
    # Nothing under the final name.
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json.partial"]
    other, again = Workers(), Workers()
    changed = recipes.merge(recipe, {"model": {"model_config": {"num_layers": 2}}})
    probe_run.measure(changed, 1, tmp_path / "probe.json", [].append, other)
    assert len(other.ran) == 5
    output.unlink()
    killed(2)
    assert len(probe_run.measure(recipe, 1, output, [].append, again).points) == 5 and len(again.ran) == 3


def test_plan_reads_a_probe_and_refuses_another_model_s(root, recipe, tmp_path, capsys):
    output = tmp_path / "probe.json"
    probe_run.measure(recipe, 1, output, [].append, Workers())
    config = ["--config", str(root / "yaml/lora_finetune_packed.yaml"), "--overlay",
              str(root / "yaml/overlays/cpu_tiny.yaml"), "--items", "9600", "--probe", str(output)]
    plan.main([*config, *TINY])
    out = capsys.readouterr().out
    assert "choices (probe of " in out and "H100" not in out and "saves write 0.2 GB/s, measured" in out
    with pytest.raises(ToolkitError, match=r"num_layers 1 \(the recipe: 2\)"):
        plan.main([*config, *TINY, "model.model_config.num_layers=2"])
    broken = json.loads(output.read_text())
    output.write_text(json.dumps(broken | {"points": [{}]}))
    with pytest.raises(ToolkitError, match=r"points\[0\]\.shape is missing.*scripts/probe\.sh"):
        plan.main([*config, *TINY])


@pytest.mark.model
def test_a_tiny_model_is_probed_through_the_trainer(root, recipe, tmp_path, monkeypatch, capsys):
    def workers(*asked):
        done = run_warm("research_internlm/run_internlm.py", *probe_run.prepare(*asked), check=False)
        return done.returncode, done.stdout + done.stderr

    monkeypatch.setattr(probe_run, "run_workers", workers)
    output = tmp_path / "probe.json"
    # One of the five shapes is run; the others are taken up from an interrupted probe.
    shapes = probe.shapes(recipe)
    done = probe_run.measure(recipe, 1, output, [].append, Workers())
    points = [dataclasses.replace(point, step_ms=7.0) for point in done.points if point.shape in shapes[1:]]
    write_json(output.with_name("probe.json.partial"),
               schema.to_json(dataclasses.replace(done, points=points)))
    config, overlay = root / "yaml/lora_finetune_packed.yaml", root / "yaml/overlays/cpu_tiny.yaml"
    assert probe_command.main([str(config), "--overlay", str(overlay), "--output", str(output), "--overwrite",
                               *TINY]) == 0
    assert "written" in capsys.readouterr().out
    found = probe.read_probe(output)
    measured = [point for point in found.points if point.step_ms != 7.0]
    assert {point.shape for point in measured} == {shapes[0]} and not found.failed
    assert all(point.step_ms > 0 and point.peak_bytes > 10**8 for point in measured)
    assert found.save_bytes_per_second > 0
    assert found.memory == "resident" and found.versions["mindspore"]
