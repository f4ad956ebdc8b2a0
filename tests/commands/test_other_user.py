"""A user without a name, a home and permissions: every refusal is one line with the path."""

import os
from pathlib import Path

import pytest

from preprocess import data_preprocess, mmlu_cmmlu_csv2json
from research_internlm import logs, plan, submit, upload
from research_internlm.recipes import for_mindformers
from research_internlm.runs.saved_steps import find_checkpoints
from research_internlm.storage import upload_state
from tests.attacks import sandbox
from tests.helpers import finished_run
from tests.helpers.run_checkpoints import checkpoint

run, complete_run = finished_run.run, finished_run.complete_run  # fixtures
NUMBER = 54321  # of no user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def as_nobody(main, folder, *argv):
    """Runs a command as a user that the system knows nothing of; returns how it ended."""
    for path in (folder, *folder.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)

    def become(words):
        os.setgroups([])
        os.setgid(NUMBER)
        os.setuid(NUMBER)
        os.environ.clear()
        return main(words)

    return sandbox.run(become, [str(word) for word in argv], folder)


def says(outcome, *words):
    assert outcome.code == 2 and outcome.output.count("error: ") == 1 and not outcome.problem, outcome
    assert len(outcome.output.strip().splitlines()) == 1, outcome
    for word in words:
        assert word in outcome.output, outcome


def closed(path, mode=0o000):
    path.chmod(mode)
    return path


@pytest.fixture
def own(tmp_path):
    """A folder that belongs to the user."""
    folder = tmp_path / "own"
    folder.mkdir()
    os.chown(folder, NUMBER, NUMBER)
    return folder


def test_without_a_home_an_upload_only_forgets(own):
    def main(_):
        upload_state.remember("id", "0" * 64)
        assert upload_state.recall("id") is None
        upload_state.forget("id")

    assert as_nobody(main, own).code == 0


def test_mindformers_gets_a_home(own):
    def main(_):
        assert os.path.expanduser("~") == "~"
        for_mindformers.set_scratch_log_folder()
        assert Path.home().is_dir()

    assert as_nobody(main, own).code == 0


def test_a_read_that_is_refused_is_called_a_read(own, root):
    recipe = closed(own / "secret.yaml") if (own / "secret.yaml").write_text("a: 1") else None
    says(as_nobody(plan.main, own, "--config", recipe, "--items", 1000),
         f"the config {recipe} cannot be read: Permission denied")
    (own / "closed").mkdir()
    (own / "closed/items.json").write_text("[]")
    closed(own / "closed")
    says(as_nobody(data_preprocess.main, own, "--input", own / "closed/items.json", "--output_dir", "out"),
         "closed/items.json", "Permission denied")


def test_a_folder_that_may_not_be_listed_is_not_empty(own, run, tmp_path):
    exam = own / "mmlu/test"
    exam.mkdir(parents=True)
    closed(exam)
    says(as_nobody(mmlu_cmmlu_csv2json.main, own, "--mmlu_dir", own / "mmlu", "--output", "o.json"),
         f"the folder {exam} cannot be listed: Permission denied")
    for path in [run, *run.rglob("*")]:
        path.chmod(0o755)
    hidden = run / "msrun_log"
    closed(hidden)
    said = f"the folder {hidden} cannot be listed: Permission denied"
    says(as_nobody(logs.main, own, run, "--output", own / "a"), said)
    says(as_nobody(upload.main, own, run, "obs://bucket/run", "--dry_run"), said)
    says(as_nobody(submit.main, own, run, "--team", "t"), said)


def test_checkpoints_that_may_not_be_listed_are_not_missing(own):
    checkpoint(own, 4)
    closed(own / "checkpoint/rank_0")
    says(as_nobody(lambda _: find_checkpoints(own / "checkpoint") and None, own),
         "rank_0 cannot be listed: Permission denied")


def test_an_output_is_refused_before_the_work(own, root, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    says(as_nobody(mmlu_cmmlu_csv2json.main, own, "--mmlu_dir", "absent", "--output", locked / "o.json"),
         f"the folder {locked} is not yours to write to")
