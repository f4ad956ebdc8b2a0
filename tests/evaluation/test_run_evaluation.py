"""What is checked before an evaluation in a run folder starts; the real one is in test_contest_launch.py."""

import pytest

from research_internlm.evaluation import run_evaluation
from research_internlm.shared import versions as versions_module
from research_internlm.shared.errors import ToolkitError


@pytest.fixture
def evaluate(root, tmp_path, monkeypatch):
    """Runs an evaluation up to the start of evaluate.py, whose command is the answer."""
    checkpoint = tmp_path / "base/base.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    started = []

    class Process:
        def __init__(self, command, **_):
            started.append(command)
            self.stdout = ["a line\n"]

        def wait(self):
            return 0

    monkeypatch.setattr(run_evaluation.subprocess, "Popen", Process)
    versions = {"mindspore": "2.9.0", "mindformers": "1.9.0"}
    monkeypatch.setattr(versions_module, "installed_versions", lambda: versions)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)

    def run(*more):
        assert run_evaluation.evaluate(tmp_path / "run", "squad", [
            "--config", str(root / "yaml/predict_eval_squad.yaml"), "--load_checkpoint", str(checkpoint),
            "--model_file", "m", "--squad_file", "s", *map(str, more)]) == 0
        return started.pop()
    return run


def test_the_recipe_s_device_is_looked_for(evaluate, root, tmp_path):
    with pytest.raises(ToolkitError) as refused:
        evaluate()
    for words in ("2 problem(s)", "no CANN found", "1 workers need 1 NPUs"):
        assert words in str(refused.value)
    results = str(tmp_path / "run/results_squad_base_base.json")
    assert evaluate("--device_target", "CPU")[-2:] == ["--output", results]
    assert evaluate("--overlay", root / "yaml/overlays/cpu_tiny.yaml")[-2:] == ["--output", results]
    assert (tmp_path / "run/squad_base_base.log").read_text() == "a line\n" * 2


def test_a_full_disk_is_said(evaluate, monkeypatch):
    monkeypatch.setattr(run_evaluation, "LEAST_FREE", 10**18)
    with pytest.raises(ToolkitError, match=r"\(1\) results, predictions and log need about"):
        evaluate("--device_target", "CPU")


def test_options_are_evaluate_s_own(evaluate, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate("--no_such_option")
    assert ended.value.code == 2 and "--no_such_option" in capsys.readouterr().err
