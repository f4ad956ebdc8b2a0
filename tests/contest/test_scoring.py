"""The contest's arithmetic against its published table, and the gate at its edge."""

import subprocess
import sys

import pytest

from research_internlm import score
from research_internlm.contest import scoring
from research_internlm.shared.errors import ToolkitError


@pytest.mark.parametrize(("accuracy", "ratio", "printed"), [
    (0.7161, 0.00679028, "0.799232916"),
    (0.7059, 0.00169757, "0.793620729"),
    (0.6400, 0.000424393, "0.747872682"),
])
def test_final_table_of_the_first_phase(accuracy, ratio, printed):
    assert f"{scoring.contest_score(accuracy, ratio, phase=1):.9f}" == printed


@pytest.mark.parametrize(("accuracy", "trainable", "printed"), [
    (0.9985, 19_988_480, "0.9908"),
    (0.9930, 4_194_304, "0.9934"),
    (0.9692, 4_194_304, "0.9767"),
    (0.9685, 16_777_216, "0.9711"),
])
def test_self_reported_scores_of_the_second_phase(accuracy, trainable, printed):
    ratio = scoring.low_parameter_ratio(trainable, scoring.PHASES[2].total)
    assert f"{scoring.contest_score(accuracy, ratio):.4f}" == printed


def test_a_million_parameters_cost_0_0585_points_of_accuracy():
    # By hand: 10 * 1e6 / 7,321e6 * 0.3 / 0.7 = 0.000585.
    ratio = scoring.low_parameter_ratio(1_000_000, scoring.PHASES[2].total)
    needed = scoring.accuracy_for(scoring.contest_score(0.9, 0.0), ratio)
    assert needed - 0.9 == pytest.approx(0.000585, abs=5e-7)


def test_gate_is_open_at_exactly_90_percent_and_needs_both():
    assert scoring.gate_against_base((44.1, 27.0), (49.0, 30.0)).passed
    assert not scoring.gate_against_base((44.09, 30.0), (49.0, 30.0)).passed
    assert not scoring.gate_against_base((49.0, 26.99), (49.0, 30.0)).passed


def test_a_base_that_answered_nothing_opens_no_gate():
    gate = scoring.gate_against_base((0.0, 0.0), (0.0, 0.0))
    assert not gate.passed and "evaluate the base model again" in str(gate)
    assert scoring.gate_against_base((45.0, 0.0), (50.0, 0.0)).passed  # an EM of 0 alone is possible


def test_shares_are_not_read_as_percent():
    with pytest.raises(Exception, match=r"'0\.4954' may be a share: write 49\.54"):
        scoring.percent("0.4954")
    read = [scoring.percent(text) for text in ("0", "0.5%", "1.5", "100")]
    assert read == pytest.approx([0, 0.5, 1.5, 100])


def test_counts_that_are_no_share_are_refused():
    with pytest.raises(ToolkitError, match="is not a valid share"):
        scoring.low_parameter_ratio(2, 1)
    with pytest.raises(ToolkitError):
        scoring.low_parameter_ratio(0, 0)


def test_a_bare_percentage_is_refused_because_one_could_mean_both():
    assert scoring.share("96.85%") == pytest.approx(0.9685)
    with pytest.raises(Exception, match=r"96\.85%"):
        scoring.share("96.85")
    with pytest.raises(Exception, match="is not a valid share"):
        scoring.share("nan")


def test_command_line(root, capsys):
    score.main(["--accuracy", "71.61%", "--ratio", "0.00679028", "--phase", "1"])
    assert "score 0.799232916" in capsys.readouterr().out
    score.main(["--accuracy", "96.85%", "--trainable", "16777216", "--squad", "40", "30",
                "--base_squad", "50", "30"])
    out = capsys.readouterr().out
    assert "gate FAILED: F1 40.00 (at least 45.00)" in out and "does not count" in out
    done = subprocess.run([sys.executable, root / "research_internlm/score.py", "--accuracy", "0.9",
                           "--trainable", "9", "--total", "8"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: 9 train")
