"""What the submission never packs: files of others, hidden folders, names that act on a terminal."""

import zipfile

import pytest

from research_internlm.contest import handin_zip
from research_internlm.shared.errors import ToolkitError
from tests.helpers import finished_run

run, complete_run = finished_run.run, finished_run.complete_run  # fixtures


def test_a_link_out_of_the_run_folder_is_refused(run, tmp_path):
    (tmp_path / "outside.log").write_text("mine\n")
    (run / "msrun_log/attempt-001").mkdir(parents=True, exist_ok=True)
    (run / "msrun_log/attempt-001/msrun.log").symlink_to(tmp_path / "outside.log")
    with pytest.raises(ToolkitError, match=r"msrun\.log is a link out of its folder, to .*outside\.log"):
        handin_zip.package(run, "t", tmp_path)


def test_control_characters_in_a_name_are_refused(run, tmp_path):
    folder = run / "msrun_log/attempt-\x1b[2J\n1"
    folder.mkdir(parents=True)
    (folder / "msrun.log").write_text("x\n")
    with pytest.raises(ToolkitError, match=r"attempt-\\x1b\[2J\\n1/msrun\.log' holds control characters"):
        handin_zip.package(run, "t", tmp_path)


def test_hidden_folders_stay_out(run, tmp_path):
    hidden = run / ".ipynb_checkpoints"
    hidden.mkdir()
    (hidden / "scheduler.log").write_text("x\n")
    finished_run.rewrite_report(run)
    with zipfile.ZipFile(handin_zip.package(run, "t", tmp_path)) as archive:
        assert not [name for name in archive.namelist() if "/." in name]
