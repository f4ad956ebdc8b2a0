"""report.py and the demo's report: what they write, say and end with."""

import importlib.util
import json

import pytest

from research_internlm import report
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_json, write_text
from tests.helpers import finished_run
from tests.helpers.commands import ROOT
from tests.helpers.finished_run import log_text, mmlu_result, squad_result

FACTS = ("--data_seed", "7", "--run_seed", "8", "--seconds", "200")
run, complete_run = finished_run.run, finished_run.complete_run  # fixtures


def test_the_report_of_a_run(run, capsys):
    with pytest.raises(ToolkitError, match=r"report\.md exists already"):
        report.main([str(run)])
    assert report.main([str(run), "--lang", "en", "--overwrite"]) == 0
    assert capsys.readouterr().out == f"written: {run / 'report.md'}\n"
    assert "Hyper-parameters" in (run / "report.md").read_text(encoding="utf-8")
    assert report.main([str(run), "--overwrite"]) == 0  # Chinese, as the contest wants it
    assert "Hyper-parameters" not in (run / "report.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        report.main([str(run), "--lang", "fr"])


@pytest.fixture(scope="module")
def demo_report():
    """scripts/demo/report.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("demo_report", ROOT / "scripts/demo/report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_demo(folder, tuned_accuracy, tuned_squad):
    """A demo's results: 40 % and 95 / 90 before, and two logs."""
    for name, accuracy, squad in (("base", 0.4, (95.0, 90.0)), ("tuned", tuned_accuracy, tuned_squad)):
        write_json(folder / f"{name}_squad.json", squad_result(name, *squad))
        for test in ("reordered", "held_out"):
            write_json(folder / f"{name}_{test}.json", mmlu_result(name) | {"overall": {
                "accuracy": accuracy, "total": 90, "correct": round(90 * accuracy), "unmatched": 0,
                "interval_95": [0.3, 0.8]}})
    for name in ("base", "lora"):
        write_text(folder / name / "worker_0.log", log_text(range(1, 11)))


@pytest.mark.parametrize(("accuracy", "squad", "options", "code"), [
    (0.71, (94.0, 89.0), [], 0),
    (0.69, (94.0, 89.0), [], 1),  # 29 points, 30 wanted
    (0.95, (80.0, 89.0), [], 1),  # F1 below 90 % of the base's
    (0.10, (0.0, 0.0), ["--quick"], 0)])
def test_the_demo_judges_what_it_shows(tmp_path, capsys, monkeypatch, demo_report, accuracy, squad, options,
                                       code):
    write_demo(tmp_path, accuracy, squad)
    monkeypatch.setattr(demo_report, "draw_losses", lambda out: [])
    assert demo_report.main(["--out", str(tmp_path), *FACTS, *options]) == code
    assert ("did NOT show" in capsys.readouterr().out) == (code == 1)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["shown"] == (code == 0 and not options) and results["seconds"] == 200
    report_text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| 40.0 % (30 to 80) |" in report_text and "seed of the data 7, seed of the runs 8." in report_text


def test_the_demos_curves_are_in_its_report(tmp_path, demo_report):
    write_demo(tmp_path, 0.71, (94.0, 89.0))
    assert demo_report.main(["--out", str(tmp_path), *FACTS]) == 0
    for name in ("base_loss.png", "lora_loss.png"):
        assert f"![{name}]({name})" in (tmp_path / "report.md").read_text(encoding="utf-8")
        assert (tmp_path / name).exists()
