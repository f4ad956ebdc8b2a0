"""What a process is in a job comes from msrun's launch, not from variables that others set.

A training under such variables is in tests/training/test_training.py.
"""

import json
import os
import subprocess
import sys

import pytest

from research_internlm.shared import process_role
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.processes import RUN_MARK

OTHERS = {"MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": "8", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "2229",
          "RANK_ID": "3", "RANK_SIZE": "8"}
PROGRAM = """
import json, os
from research_internlm.shared import process_role
from research_internlm.shared.errors import ToolkitError
process_role.leave_job_variables_out()
print(json.dumps([process_role.rank(), process_role.worker_count(), process_role.is_scheduler(),
                  sorted(set(os.environ) & set(process_role.JOB_VARIABLES))]))
"""


def clean_environment():
    return {name: value for name, value in os.environ.items()
            if name not in {*process_role.JOB_VARIABLES, RUN_MARK}}


def run(variables, *parent):
    done = subprocess.run([*parent, sys.executable, "-c", PROGRAM], env=clean_environment() | variables,
                          capture_output=True, text=True, check=True)
    *said, facts = done.stdout.splitlines()
    return said, json.loads(facts)


def test_variables_that_others_set_say_nothing_of_a_process_by_itself():
    [said], facts = run(OTHERS)
    assert facts == [0, 1, False, []]
    assert said.startswith(f"not used: {', '.join(OTHERS)} in the environment ")


def test_without_such_variables_nothing_is_said():
    assert run({"DEVICE_ID": "2"}) == ([], [0, 1, False, []])


@pytest.mark.parametrize("by", ["the launcher", "msrun"])
def test_processes_of_msrun_keep_their_place(tmp_path, by):
    msrun = tmp_path / "msrun"
    msrun.write_text("import subprocess, sys\nsys.exit(subprocess.call(sys.argv[1:]))\n")
    mark = {RUN_MARK: str(tmp_path)} if by == "the launcher" else {}
    said, facts = run(OTHERS | mark, *([] if mark else [sys.executable, str(msrun)]))
    assert said == [] and facts == [3, 8, True, sorted(OTHERS)]


@pytest.mark.parametrize(("command", "arguments"), [
    ("research_internlm.evaluate", "squad-score --squad_file no --predictions no --output o"),
    ("research_internlm.audit",
     "--config c --load_checkpoint no --dataset no --model_file no --output o"),
    ("preprocess.alpaca_data_preprocess_v1", "--input_glob no --output_file o --model_file no"),
])
def test_commands_of_one_process_drop_them_before_mindspore_is_imported(command, arguments, tmp_path):
    program = f"""
import os, sys
from {command} import main
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.process_role import JOB_VARIABLES
assert "mindspore" not in sys.modules and os.environ["MS_ROLE"]
try:
    main({arguments.split()})
except ToolkitError:
    assert not set(os.environ) & set(JOB_VARIABLES)
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], env=clean_environment() | OTHERS, cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["refused"], done.stderr


JOB = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "4", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "8118",
       "MS_NODE_ID": "3", "RANK_ID": "3"}


@pytest.mark.parametrize(("changes", "message"), [
    ({"MS_ROLE": None}, "nothing started it as one of several"), ({"MS_ROLE": "x"}, "MS_ROLE is 'x'"),
    *(({"MS_WORKER_NUM": value}, "MS_WORKER_NUM") for value in (None, "", "abc", "0", "-4", "4.0",
                                                                "9" * 5000)),
    *(({"RANK_ID": value}, "RANK_ID.*from 0 to 3") for value in ("", "x", "-1", "4")),
    ({"MS_NODE_ID": "node"}, "MS_NODE_ID"), ({"MS_SCHED_HOST": None}, "MS_SCHED_HOST is missing"),
    *(({"MS_SCHED_PORT": value}, "MS_SCHED_PORT") for value in (None, "65536", "http")),
])
def test_a_job_that_makes_no_sense_is_one_line(monkeypatch, changes, message):
    for name, value in (JOB | changes).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(ToolkitError, match=message):
        process_role.require_job()


def test_jobs_as_msrun_starts_them_are_accepted(monkeypatch):
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    process_role.require_job()
    assert (process_role.rank(), process_role.worker_count()) == (3, 4)
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    process_role.require_job()
