"""What the submission refuses, one rule at a time, on the made-up run of tests/helpers/finished_run.py."""

import json
import shutil

import pytest
import yaml

from research_internlm import recipes
from research_internlm.contest import facts, handin_checks, handin_zip, learning_rate, squad_check
from research_internlm.runs import run_folder, worker_logs
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path, write_json, write_manifest, write_text
from tests.helpers import finished_run
from tests.helpers.finished_run import link, log_text, mmlu_result, squad_result, write_squad
from tests.helpers.run_info import manifest

run, complete_run = finished_run.run, finished_run.complete_run  # fixtures


def problems(run):
    return handin_checks.problems(run_folder.RunFolder(run))


def the_problem(run):
    """The only problem of a run."""
    found = problems(run)
    assert len(found) == 1, found
    return found[0]


def change(path, **facts):
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **facts})


# The report is the one of these files.

def test_edited_report(run):
    path = run / "report.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("75.00%", "95.00%"), encoding="utf-8")
    assert "report.md was edited after it was written; write it again" in the_problem(run)


def test_report_without_a_stated_row(run):
    path = run / "report.md"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "`lora_alpha`" not in line), encoding="utf-8")
    assert "report.md has no row of lora_alpha in its table" in problems(run)[0]


def test_report_without_manifest(run):
    manifest_path(run / "report.md").unlink()
    assert "report.md has no report.md.manifest.json beside it" in the_problem(run)


def test_links_recorded_after_the_report(run):
    links = (run / run_layout.LINKS).read_text()
    (run / run_layout.LINKS).unlink()
    finished_run.rewrite_report(run)
    (run / run_layout.LINKS).write_text(links)
    assert "report.md is older than obs_links.json" in the_problem(run)


def test_log_changed_after_the_report(run):
    path = run / "msrun_log/worker_1.log"
    path.write_text(path.read_text().replace("loss:[4.0", "loss:[3.0"))
    assert "report.md is older than msrun_log/worker_1.log" in the_problem(run)


def test_train_log_changed_after_the_report(run):
    path = run / run_layout.TRAIN_LOG
    path.write_text("{}\n")
    finished_run.rewrite_report(run)
    path.write_text("[]\n")
    assert "report.md is older than train_log.jsonl" in the_problem(run)


def test_checkpoint_made_after_the_report(run):
    finished_run.checkpoint(run / "checkpoint/rank_0/late.ckpt", 10)
    assert "report.md is older than the checkpoints" in the_problem(run)


def test_figures_missing_or_changed(run):
    figure = run / "analysis/train_loss.png"
    figure.write_bytes(figure.read_bytes()[:100])
    assert "analysis/train_loss.png changed after report.md was written" in the_problem(run)
    figure.unlink()
    assert "report.md was written with analysis/train_loss.png, which is missing" in the_problem(run)


# The SQuAD evaluations.

def rewritten(run):
    finished_run.rewrite_report(run)
    return problems(run)


def test_first_questions_only(run):
    write_squad(run, "results_squad", squad_result("tuned", 49.54, 31.40, limit=100))
    assert ["asked only the first 100" in text for text in rewritten(run)] == [True]
    write_json(run / "results_mmlu.json", {**mmlu_result("tuned"), "limit": 7})
    assert "results_mmlu.json asked only the first 7" in rewritten(run)[0]


def test_unanswered_questions(run):
    result = squad_result("tuned", 49.54, 31.40)
    result["official"]["missing"] = 1
    write_squad(run, "results_squad", result)
    assert "1 of the 3 questions of results_squad.json have no answer" in rewritten(run)[0]


@pytest.mark.parametrize(("content", "words"), [
    ("{}", "holds 0 predictions, results_squad.json was scored over 3"), ("[1, 2, 3]", "holds 0 predictions"),
    ("{", "is not JSON"), (None, "the predictions of results_squad.json are missing")])
def test_predictions(run, content, words):
    path = run / "results_squad.predictions.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert words in the_problem(run)


@pytest.mark.parametrize("verdicts", [
    (), ("contest: F1 49.54, EM 31.40 over 2",),
    ("contest: F1 49.54, EM 31.40 over 3", "official: F1 49.54, EM 31.40 over 3"),
    ("contest: F1 49.00, EM 31.40 over 2", "official: F1 49.54, EM 31.40 over 3")])
def test_log_of_another_evaluation(run, verdicts):
    log = "".join(f"SQuAD {verdict} questions (note)\n" for verdict in verdicts)
    (run / "squad.log").write_text(log)
    assert "no *squad*.log in run1 ends in the verdicts of results_squad.json" in the_problem(run)


def test_squad_of_other_weights_than_the_best(run):
    write_squad(run, "results_squad", squad_result("another", 49.54, 31.40))
    assert "no SQuAD result is of the weights of results_mmlu.json" in rewritten(run)[0]
    assert facts.gate(run_folder.RunFolder(run)) is None
    # The report says so too, instead of a gate over other weights.
    assert "| SQuAD 门槛 | 未测 |" in (run / "report.md").read_text(encoding="utf-8")


def test_no_accuracy(run):
    (run / "results_mmlu.json").unlink()
    assert "the multiple-choice result after tuning is missing" in rewritten(run)[0]


def test_no_base_result(run):
    for path in run.glob("results_squad_base*"):
        path.unlink()
    assert "the SQuAD result of the base model is missing" in rewritten(run)[0]


@pytest.mark.parametrize("changed", [{"squad_file_sha256": "other"}, {"prompt_version": "internlm-chat-2"},
                                     {"contest": {"f1": 50.0, "em": 32.0, "total": 3, "missing": 0}}])
def test_base_was_asked_something_else(run, changed):
    write_squad(run, "results_squad_base", squad_result("base", 50.0, 32.0, **changed))
    assert ["so the gate compares nothing" in text for text in rewritten(run)] == [True]


def test_dev_v1_1_has_its_number_of_questions(run):
    for name, sha in (("results_squad", "tuned"), ("results_squad_base", "base")):
        write_squad(run, name, squad_result(sha, 50.0, 32.0, squad_file_sha256=squad_check.DEV_SHA256))
    found = rewritten(run)
    assert len(found) == 2 and all("dev-v1.1 has 2,067 and 10,570" in text for text in found)


def test_a_failed_gate_stops_the_hand_in(run):
    write_squad(run, "results_squad", squad_result("tuned", 44.0, 31.4))
    assert ["would not count: SQuAD gate FAILED" in text for text in rewritten(run)] == [True]
    assert "未通过：F1 44.00（至少 45.00）" in (run / "report.md").read_text(encoding="utf-8")


# The weights.

def test_fewer_than_five_public_weights(run):
    links = [link("tuned", 5), link("1", 1), {**link("2", 2), "public_read": False},
             {**link("3", 3), "file": "report.pdf"}]
    write_json(run / run_layout.LINKS, links)
    assert "public links to 2 weight file(s) (merged_5.ckpt, merged_1.ckpt), the rules" in rewritten(run)[0]


def test_evaluated_weights_are_not_public(run):
    write_json(run / run_layout.LINKS, [link(str(number), number) for number in range(5)])
    found = rewritten(run)
    assert ["are not among the public links" in text for text in found] == [True, True]


# Yaml, data and logs.

def test_seq_length_of_config_and_data(run):
    finished_run.edit_yaml(run, {"model": {"model_config": {"seq_length": 512}}})
    assert "seq_length is 512 in resolved_config.yaml, 1024 in run.json" in problems(run)[0]


def test_training_file_of_today(run):
    data = run / "train.mindrecord"
    data.write_bytes(b"rows")
    write_manifest(data, **manifest(39))
    facts = json.loads((run / "run.json").read_text())
    facts["data"]["train_dataset"]["file"] = str(data)
    write_json(run / "run.json", facts)
    found = " | ".join(rewritten(run))
    assert "train_rows is 40 in run.json, 39 in train.mindrecord.manifest.json" in found
    assert f"train_sha256 is {'1' * 64} in run.json" in found


def test_peak_learning_rate(run):
    for rank in range(2):
        path = run / f"msrun_log/worker_{rank}.log"
        path.write_text(path.read_text().replace("lr: 5e-05", "lr: 0.0003"))
    found = rewritten(run)
    assert len(found) == 2 and "peaks at 0.0003 in the training log of rank 0, but 5e-05" in found[0]


@pytest.mark.parametrize(("logged", "problems"), [
    ("4.6e-05", 1), ("4.8e-05", 0), ("5.2e-05", 0), ("5.4e-05", 1)])  # 8, 4 and 4, 8 % off
def test_two_printed_digits_of_a_learning_rate_are_enough(tmp_path, logged, problems):
    (tmp_path / "worker_0.log").write_text(log_text(range(1, 11)).replace("lr: 5e-05", f"lr: {logged}"))
    logs = worker_logs.read_run(tmp_path)
    schedule = {"type": "ConstantWarmUpLR", "learning_rate": 5e-5}
    assert len(list(learning_rate.peak_problems(schedule, logs, 10))) == problems


@pytest.mark.parametrize(("line", "words"), [
    ("Network Parameters: 8192", "4096 in training log, 8192 in training log of rank 1"),
    ("Network Parameters: 20 M", "the training log of rank 1 says Network Parameters: 20 M")])
def test_trainable_parameters_of_each_rank(run, line, words):
    for rank, text in enumerate(("Network Parameters: 4096", line)):
        path = run / f"msrun_log/worker_{rank}.log"
        path.write_text(f"{text}\n{path.read_text()}")
    assert [words in text for text in rewritten(run)] == [True]


def test_losses_that_are_no_numbers(run):
    path = run / "msrun_log/worker_1.log"
    path.write_text("".join(line.replace(line[line.index("loss:["):line.index("], per")], "loss:[nan/nan")
                            for line in log_text(range(1, 11)).splitlines(keepends=True)))
    assert "the last 10 losses in the training log of rank 1 are not numbers" in rewritten(run)[0]


@pytest.mark.model
@pytest.mark.parametrize("schedule", [
    {"type": "CosineWithWarmUpLR", "warmup_ratio": 0.25, "lr_end": 1e-6}, {"type": "CosineWithWarmUpLR"},
    {"type": "LinearWithWarmUpLR", "warmup_steps": 3}, {"type": "ConstantWarmUpLR", "warmup_steps": 3}])
def test_learning_rates_are_mindformers(schedule):
    import mindspore
    from mindformers.core.lr import lr_schedule

    schedule = {**schedule, "learning_rate": 5e-5, "total_steps": 20}
    theirs = getattr(lr_schedule, schedule["type"])(**{key: value for key, value in schedule.items()
                                                       if key != "type"})
    for step in range(20):
        assert learning_rate.rate_at(schedule, step, 20) == pytest.approx(
            float(theirs(mindspore.Tensor(step, mindspore.int32))), abs=1e-10)


# Broken sources.

@pytest.mark.parametrize(("name", "content", "words"), [
    ("results_x.json", "[]", "holds no result of evaluate.py"),
    ("results_x.json", '{"task": "squad"}', "is not valid: questions is missing, official is missing"),
    ("results_x.json", '{"task": "mmlu", "checkpoint": "c", "checkpoint_sha256": "s", "mode": "m", '
     '"evaluation_kind": "k", "overall": {"total": "4"}}',
     "overall.total is '4', a whole number was expected, overall.correct is missing"),
    ("results_x.json", "{", "is not JSON"), ("obs_links.json", "[{", "is not JSON"),
    ("obs_links.json", "{}", "the content is an object, a list was expected"),
    ("obs_links.json", "[1]", "[0] is 1, an object was expected"),
    ("msrun_log/attempt-001/attempt.json", "{}", "command is missing, msrun is missing"),
    ("checkpoint/rank_0/lora_rank_0-9_5.ckpt", "cut", "is truncated, damaged or not a ckpt"),
    ("report.md.manifest.json", "{", "is not JSON")])
def test_a_broken_source_hides_nothing(run, tmp_path, name, content, words):
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text(content)
    (run / "results_squad.predictions.json").unlink()  # another problem
    with pytest.raises(ToolkitError) as caught:
        handin_zip.package(run, "team", tmp_path)
    assert str(caught.value).count(words) == 1
    assert "the predictions of results_squad.json are missing" in str(caught.value)
    if name != "report.md.manifest.json":
        with pytest.raises(ToolkitError, match="of its sources cannot be read"):
            finished_run.rewrite_report(run)


def test_no_logs_at_all_is_said_once(run, tmp_path):
    shutil.rmtree(run / "msrun_log")
    with pytest.raises(ToolkitError) as caught:
        handin_zip.package(run, "team", tmp_path)
    assert str(caught.value).count("no worker_*.log") == 1
    assert "msrun_log/worker_0.log, msrun_log/worker_1.log, which is missing" in str(caught.value)


@pytest.mark.parametrize(("name", "words"), [
    ("run.json", r"command is missing, .*data\.train_dataset\.file is missing, .*counts is missing"),
    ("resolved_config.yaml", "runner_config is missing, train_dataset is missing, model is missing")])
def test_no_run_without_its_facts(run, name, words):
    write_text(run / name, '{"data": {"train_dataset": {}}}')
    with pytest.raises(ToolkitError, match=words):
        run_folder.RunFolder(run)


@pytest.mark.parametrize(("changed", "words"), [
    ({"model": {"model_config": {"pet_config": {"target_modules": ".*none"}}}}, "matches no cell"),
    ({"runner_config": {"batch_size": 400}}, "do not fill one step")])
def test_a_config_that_cannot_be_counted_is_said_once(run, changed, words):
    path = run / run_layout.RESOLVED_CONFIG
    write_text(path, yaml.safe_dump(recipes.merge(recipes.load_yaml(path), changed)))
    (run / "results_squad.predictions.json").unlink()
    (run / "msrun_log/worker_1.log").unlink()
    found = problems(run)
    assert [words in text for text in found].count(True) == 1
    assert "the training log of rank 1 is missing (2 workers ran)" in found
    assert "the predictions of results_squad.json are missing" in found
