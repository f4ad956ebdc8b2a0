"""What MindFormers writes of its own goes into the output folder, or goes with the process."""

import os
import subprocess
import sys

import pytest

from research_internlm.recipes.for_mindformers import set_log_folder

NAMES = ("LOG_MF_PATH", "LOCAL_DEFAULT_PATH")
SCRATCH = """
import os
from research_internlm.recipes.for_mindformers import set_scratch_log_folder
set_scratch_log_folder()
set_scratch_log_folder()
folder = os.environ["LOCAL_DEFAULT_PATH"]
print(os.environ["LOG_MF_PATH"], folder, os.path.isdir(folder))
"""


@pytest.fixture
def unset(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what the test sets is taken back
        monkeypatch.delenv(name)


def test_logs_and_strategies_go_into_the_run(tmp_path, unset):
    set_log_folder(tmp_path)
    assert [os.environ[name] for name in NAMES] == [str(tmp_path / "log"), str(tmp_path)]


def test_what_the_user_chose_stays(tmp_path, unset, monkeypatch):
    monkeypatch.setenv("LOG_MF_PATH", "/elsewhere")
    set_log_folder(tmp_path)
    assert os.environ["LOG_MF_PATH"] == "/elsewhere"
    set_log_folder(tmp_path, always=True)
    assert os.environ["LOG_MF_PATH"] == str(tmp_path / "log")


def test_a_scratch_folder_goes_with_the_process(tmp_path, unset):
    done = subprocess.run([sys.executable, "-c", SCRATCH], cwd=tmp_path, check=True, capture_output=True,
                          text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    log, folder, existed = done.stdout.split()
    assert existed == "True" and log == f"{folder}/log" and folder.startswith(f"{tmp_path}/mindformers-")
    assert list(tmp_path.iterdir()) == []
