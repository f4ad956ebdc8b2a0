"""JSON files of another form end every command that reads them with one line that says all that is wrong."""

import json
import os
import re

import pytest

from research_internlm import logs, plan, report, submit
from research_internlm.contest.report_tables import REPORT
from research_internlm.runs import worker_logs
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import write_manifest
from tests.helpers import finished_run
from tests.helpers.run_info import manifest, run_info

run, complete_run = finished_run.run, finished_run.complete_run  # fixtures

FORMS = {
    "[]": "the content is a list, an object was expected", "5": "the content is 5",
    "null": "the content is null", "{}": "is missing", "[" * 100_000: "nested too deeply to be read",
    '{"workers": %s}' % ("9" * 5_000): "a number that cannot be read",
    "\ufeff[1": "is not JSON", "": "is empty"}


def error_of(main, capsys, *words):
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: main([str(word) for word in words]))
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len([line for line in lines if line.startswith("error: ")]) == 1
    assert lines[-1].startswith("error: ")
    return lines[-1]


@pytest.mark.parametrize(("form", "words"), FORMS.items(), ids=range(len(FORMS)))
@pytest.mark.parametrize(("main", "options"), [(logs.main, ()), (report.main, ("--overwrite",))])
def test_run_json(run, capsys, main, options, form, words):
    (run / "run.json").write_text(form)
    assert words in error_of(main, capsys, run, *options)


def test_all_of_run_json_is_said_at_once(run, capsys):
    facts = run_info(2) | {"workers": "x", "seed": True}
    del facts["data"]["train_dataset"]["counts"]["out"], facts["versions"]
    (run / "run.json").write_text(json.dumps(facts))
    error = error_of(report.main, capsys, run, "--overwrite")
    assert ("run.json is not valid: workers is 'x', a whole number was expected, seed is true, a whole "
            "number was expected, versions is missing, data.train_dataset.counts.out is missing; ") in error


@pytest.mark.parametrize("form", ["[]", "5", "null", "{}", '{"task": ["mmlu"]}', '{"task": "mmlu"}'])
@pytest.mark.parametrize("name", ["results_x.json", "obs_links.json", "msrun_log/attempt-001/attempt.json"])
def test_what_lies_in_a_run_folder(run, capsys, name, form):
    if (name, form) == ("obs_links.json", "[]"):
        return  # no upload yet
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(form)
    error = error_of(report.main, capsys, run, "--overwrite")
    assert "1 of its sources cannot be read" in error and str(path) in error
    assert str(path) in error_of(submit.main, capsys, run, "--team", "team", "--output", run.parent)


@pytest.mark.parametrize("form", ["[]", "5", "{}", '{"inputs": [], "figures": {"x": 1}}'])
def test_the_manifest_of_the_report(run, capsys, form):
    (run / f"{REPORT}.manifest.json").write_text(form)
    error = error_of(submit.main, capsys, run, "--team", "team", "--output", run.parent)
    assert f"{REPORT}.manifest.json is not valid: " in error


@pytest.mark.parametrize(("facts", "words"), [
    ([], "the content is a list"), ({}, "parts is missing, tool is missing"),
    ({"counts": {"out": 0}, "parts": [{"file": "../x", "bytes": -1}]},
     "parts[0].file is '../x', a plain file name was expected, parts[0].bytes is -1, a whole number of 0 or "
     "more was expected, parts[0].sha256 is missing"),
    ({"special_ids": {"bos": 1}}, "special_ids is an object, an object with vocab_size was expected")])
def test_the_manifest_of_a_mindrecord(root, tmp_path, capsys, facts, words):
    data = tmp_path / "train.mindrecord"
    data.write_bytes(b"rows")
    write_manifest(data, **manifest(40))
    path = data.with_name("train.mindrecord.manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | facts if facts else facts))
    error = error_of(plan.main, capsys, "--config", root / "yaml/lora_finetune.yaml", "--train_dataset", data)
    assert words in error and "make the data set again" in error


@pytest.mark.parametrize("name", ["worker_1.log", "rank_1/info.log", "other.log"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"),
                                  lambda path: path.symlink_to("nowhere")])
def test_a_log_that_is_not_a_regular_file_is_named(tmp_path, name, make):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    with pytest.raises(ToolkitError, match=rf"the log .*{name} is not a regular file"):
        worker_logs.read_run(tmp_path)


def test_a_batch_size_that_is_no_number_is_named(complete_run, capsys):
    config = complete_run / "resolved_config.yaml"
    config.write_text(re.sub("batch_size: .*", "batch_size: [4]", config.read_text(), count=1))
    assert "runner_config.batch_size is [4]" in error_of(logs.main, capsys, complete_run)
