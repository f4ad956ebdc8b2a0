"""The rehearsal: what it keeps of the recipe, and what its page calls a failure. .ci/run runs it for real."""

import dataclasses
import math

import pytest

from research_internlm import recipes, rehearse
from research_internlm.launching import rehearsal
from research_internlm.machine import npus
from research_internlm.recipes.schedule import steps_from_recipe
from research_internlm.runs import trained_state
from research_internlm.runs.loss_lines import Record
from research_internlm.runs.worker_logs import RankLog
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import ROOT

SIZE = {"seq_length", "hidden_size", "num_layers", "num_heads", "n_kv_heads", "intermediate_size",
        "vocab_size", "multiple_of"}


def prepare(monkeypatch, folder, config, count, *options):
    monkeypatch.setattr(npus, "find_devices", lambda: tuple(f"davinci{n}" for n in range(count)))
    return rehearsal.prepare(str(ROOT / "yaml" / config), 2, options, folder / "rehearsal")


@pytest.mark.slow
@pytest.mark.parametrize(("config", "overlays"), [
    ("lora_finetune.yaml", []), ("lora_finetune_packed.yaml", []), ("lora_finetune_packed_1card.yaml", []),
    ("lora_finetune_internlm2.yaml", []), ("lora_finetune.yaml", ["internlm2_5_7b.yaml"]),
    ("lora_finetune.yaml", ["internlm3_8b.yaml"]),
])
def test_on_npus_only_size_and_schedule_differ_from_the_recipe(monkeypatch, tmp_path, config, overlays):
    paths = [str(ROOT / "yaml/overlays" / name) for name in overlays]
    prepared = prepare(monkeypatch, tmp_path, config, 4, *(f"--overlay={path}" for path in paths))
    asked, tiny = recipes.resolve(ROOT / "yaml" / config, paths), prepared.recipe
    assert prepared.device == "Ascend"
    for section in ("context", "recompute_config", "parallel", "runner_wrapper", "optimizer"):
        assert tiny[section] == asked[section], section
    assert tiny["runner_config"] == asked["runner_config"] | {"epochs": 1}
    ours, theirs = recipes.model_config(tiny), recipes.model_config(asked)
    assert {key for key in ours | theirs if ours.get(key) != theirs.get(key)} <= SIZE
    assert (ours["n_kv_heads"] or ours["num_heads"]) in (2, 4)
    is_grouped = "internlm2" in config or bool(overlays)
    assert (ours["n_kv_heads"] == 2) == is_grouped  # grouped-query attention stays


@pytest.mark.parametrize("config", ["lora_finetune.yaml", "lora_finetune_packed.yaml"])
def test_the_data_is_enough_for_ten_saves_at_sink_boundaries(monkeypatch, tmp_path, config):
    prepared = prepare(monkeypatch, tmp_path, config, 4, "runner_config.sink_size=3")
    assert prepared.save_steps == 6 and prepared.recipe["eval_step_interval"] == 6
    assert prepared.total >= 10 * 6 and not prepared.total % 3


def test_without_an_npu_it_is_the_cpu_rehearsal(monkeypatch, tmp_path):
    prepared = prepare(monkeypatch, tmp_path, "lora_finetune.yaml", 0)
    expected = recipes.resolve(ROOT / "yaml/lora_finetune.yaml", [ROOT / "yaml/overlays/cpu_tiny.yaml"])
    assert prepared.device == "CPU"
    assert recipes.model_config(prepared.recipe) == recipes.model_config(expected)
    assert steps_from_recipe(prepared.recipe, 40 * 8, 2).total == 40 == prepared.total


def test_answers_are_not_rehearsed_because_random_weights_have_no_tokenizer(monkeypatch, tmp_path):
    prepared = prepare(monkeypatch, tmp_path, "lora_assistant.yaml", 0)
    assert recipes.callback(prepared.recipe, "AnswerMonitor") is None


def log_of(losses, start=1):
    log = RankLog(rank=0)
    for step, loss in enumerate(losses, start):
        log.add(Record(step, len(losses), 1, loss, 10.0, 1e-2, False, 1.0, 1.0, None))
    return log


@pytest.mark.parametrize(("losses", "start", "passed"), [
    ([7.0, 6.9, 6.5, 6.0], 1, True), ([6.0, 6.5, 6.9, 7.0], 1, False), ([7.0, 7.0, 7.0, 7.0], 1, False),
    ([7.0, math.nan, 6.5, 6.0], 1, False), ([7.0, 6.9, 6.5, 6.0], 2, False),
])
def test_losses_must_be_whole_finite_and_falling(losses, start, passed):
    [check] = rehearsal._losses({0: log_of(losses, start)}, 4)
    assert check.passed is passed, check.seen


def test_ranks_that_differ_or_are_silent_at_a_save_are_seen(tmp_path):
    def log(rank, *digests):
        path = tmp_path / "msrun_log" / "attempt-001" / f"worker_{rank}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"2026 - INFO - trained state of step {step}: sha256 {digit * 64}\n"
                                for step, digit in digests))

    log(0, (4, "a"), (8, "b"))
    log(1, (4, "a"), (8, "b"))
    assert trained_state.digests(tmp_path) == {4: {0: "a" * 64, 1: "a" * 64}, 8: {0: "b" * 64, 1: "b" * 64}}
    assert rehearsal._agreement(trained_state.digests(tmp_path), 2, 4).passed
    log(1, (4, "a"), (8, "c"))
    check = rehearsal._agreement(trained_state.digests(tmp_path), 2, 4)
    assert not check.passed and "at step(s) 8" in check.seen
    log(1, (4, "a"))
    assert not rehearsal._agreement(trained_state.digests(tmp_path), 2, 4).passed
    assert not rehearsal._agreement({}, 2, 4).passed
    log(1, (8, "b"))  # killed before it said its state of the save from which the run continued
    assert rehearsal._agreement(trained_state.digests(tmp_path), 2, 4).passed
    assert not rehearsal._agreement(trained_state.digests(tmp_path), 2, 8).passed


def test_a_folder_that_exists_is_refused(tmp_path):
    with pytest.raises(ToolkitError, match="exists already"):
        rehearse.main(["yaml/lora_finetune.yaml", "--output_dir", str(tmp_path)])


def test_the_page_names_the_device_and_a_failure_ends_with_1(monkeypatch, capsys, tmp_path):
    made = dataclasses.replace(prepare(monkeypatch, tmp_path, "lora_finetune.yaml", 0), workers=2)
    monkeypatch.setattr(rehearsal, "prepare", lambda *_: made)
    monkeypatch.setattr(rehearsal, "rehearse", lambda _: [rehearsal.Check("losses", False, "nan")])
    assert rehearse.main(["yaml/lora_finetune.yaml", "2", "--output_dir", str(tmp_path / "new")]) == 1
    page = capsys.readouterr().out
    assert "FAILED  losses: nan" in page and "shows no NPU" in page
