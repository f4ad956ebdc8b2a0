"""The report on a made-up run folder: every number from its files, in both languages."""

import json
import re

import pytest

from research_internlm.contest import report_tables
from research_internlm.runs import run_folder
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_json, write_manifest
from tests.helpers import finished_run
from tests.helpers.finished_run import ROWS, mmlu_result, rewrite_report
from tests.helpers.run_info import attempt, manifest

run, complete_run = finished_run.run, finished_run.complete_run  # fixtures


def test_report_numbers_come_from_the_files(run):
    text = (run / "report.md").read_text(encoding="utf-8")
    assert report_tables.stated_in(text) == {
        "lora_rank": "8", "lora_alpha": "32", "target_modules": "wo wq", "trainable": "4096",
        "seq_length": "1024", "batch_size": "4", "cards": "2",
        "global_batch_size": "8", "epochs": "2", "scheduled_steps": "10",
        "train_rows": "40", "learning_rate": "5e-05"}
    for number in ("75.00%", "49.54 / 31.40", "50.00 / 32.00", "F1 49.54（至少 45.00）", "4.0000",
                   "https://bucket.example/merged_5.ckpt", "dropped.overlong | 1"):
        assert number in text
    # By hand: 4,096 of 7,321,000,000; (1 - 10 x 5.595e-7) x 0.3 + 0.75 x 0.7.
    assert "0.000000559" in text and "0.824998" in text
    assert (run / "analysis/train_loss.png").exists()


def test_report_in_english_says_the_same(run):
    chinese = report_tables.stated_in((run / "report.md").read_text(encoding="utf-8"))
    report_tables.write_report(run, "en", overwrite=True)
    text = (run / "report.md").read_text(encoding="utf-8")
    assert report_tables.stated_in(text) == chinese and "Hyper-parameters" in text
    assert not any("\u4e00" <= character <= "\u9fff" for character in text)
    with pytest.raises(ToolkitError, match="exists already"):
        report_tables.write_report(run, "en", overwrite=False)


def test_report_without_results_says_not_measured(run):
    for path in run.glob("results*"):
        path.unlink()
    rewrite_report(run)
    text = (run / "report.md").read_text(encoding="utf-8")
    assert text.count("未测") == 2


def test_memory_is_called_memory(run):
    result = mmlu_result("tuned") | {"evaluation_kind": "reordered_train_questions"}
    write_json(run / "results_mmlu.json", result)
    rewrite_report(run)
    assert "衡量的是记忆" in (run / "report.md").read_text(encoding="utf-8")


def test_numbers_are_words_and_digits_not_python(run):
    facts = json.loads((run / "run.json").read_text())
    facts["data"]["train_dataset"]["sha256"] = None
    data = run / "train.mindrecord"
    facts["data"]["train_dataset"]["file"] = str(data)
    write_json(run / "run.json", facts)
    write_manifest(data, **manifest(ROWS))
    rewrite_report(run)
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "| 样本数 dropped.overlong | 1 |" in text and "| sha256 | 未记录 |" in text
    assert "packed 否" in text and "dropped.overlong 1 |" in text
    for notation in ("None", "True", "False", "{", "}", "[0"):
        assert notation not in text


def test_warnings_and_gate_are_chinese_in_the_chinese_report(run):
    path = run / "msrun_log/worker_1.log"
    path.write_text(path.read_text().replace("per_step_time: 200ms", "per_step_time: 900ms")
                    .replace("overflow cond: False", "overflow cond: True"))
    rewrite_report(run)
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "日志警告：10 个记录步中有 10 步溢出" in text and "日志警告：进程 1 每步需 900 毫秒" in text
    assert "| 通过：F1 49.54（至少 45.00），EM 31.40（至少 28.80） |" in text
    english = re.compile(r"[a-z]+(?: [a-z]+){3}")
    assert not [line for line in text.splitlines() if english.search(line) and not line.startswith("|")]


def test_the_command_that_repeats_the_run(run):
    facts = json.loads((run / "run.json").read_text())
    command = ["run_internlm.py", "--config", "yaml/my recipe.yaml", "x=$1"]
    write_json(run / "run.json", {**facts, "command": command})
    rest = "research_internlm/run_internlm.py --config 'yaml/my recipe.yaml' 'x=$1'"
    assert run_folder.RunFolder(run).command() == f"msrun --worker_num=2 --local_worker_num=2 {rest}"
    write_json(run / "run.json", {**facts, "command": command, "workers": 1})
    assert run_folder.RunFolder(run).command() == f"python {rest}"
    for number in (1, 2):
        write_json(run / f"msrun_log/attempt-00{number}/attempt.json",
                   attempt(f"bash scripts/train_msrun.sh 'a b' {number}"))
    rewrite_report(run)
    assert "pip install -e .\nbash scripts/train_msrun.sh 'a b' 1\n```" in (run / "report.md").read_text(
        encoding="utf-8")
