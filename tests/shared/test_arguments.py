"""Values with bounds: what a flag and a recipe value may be, and every flag that has bounds."""

import argparse
import math

import pytest

from preprocess import alpaca_data_preprocess_v1, data_preprocess
from research_internlm import mirror, plan, publish, score, upload
from research_internlm.shared import arguments


@pytest.mark.parametrize(("kind", "good", "bad"), [
    (arguments.whole(1), {"1": 1, "40": 40}, ["0", "-3", "1.5", "x", ""]),
    (arguments.whole(0, 24), {"0": 0, "24": 24}, ["-1", "25"]),
    (arguments.number(above=0), {"0.5": 0.5, "3": 3.0}, ["0", "-1", "nan", "inf", "x"])])
def test_a_flags_number(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a "):
            kind(text)


def test_a_recipes_number():
    values = [0, 1, 10 ** 400, 1.0, True, "1", None, math.nan, math.inf]
    assert [value for value in values if arguments.is_whole(value, 1)] == [1]
    assert [value for value in values if arguments.is_number(value, 1)] == [1, 10 ** 400, 1.0]
    assert arguments.is_whole(24, 1, 24) and not arguments.is_whole(25, 1, 24)
    assert arguments.is_number(-2.5) and not arguments.is_number(-math.inf)


@pytest.mark.parametrize(("parse", "flag", "bad", "bounds"), [
    (plan.parse_arguments, "--items", "0", "of at least 1"),
    (plan.parse_arguments, "--cards", "0", "of at least 1"),
    (plan.parse_arguments, "--saves", "-5", "of at least 1"),
    (plan.parse_arguments, "--rank", "-4", "of at least 1"),
    (plan.parse_arguments, "--seq_length", "0", "of at least 1"),
    (plan.parse_arguments, "--step_time_ms", "nan", "finite number above 0"),
    (upload.parse_arguments, "--parallel", "0", "of at least 1"),
    (upload.parse_arguments, "--part_size", "4", "of at least 5"),
    (score.parse_arguments, "--trainable", "-1", "of at least 0"),
    (score.parse_arguments, "--total", "0", "of at least 1"),
    (data_preprocess.parse_arguments, "--orderings", "25", "from 1 to 24"),
    (data_preprocess.parse_arguments, "--valid_per_category", "-1", "of at least 0"),
    (data_preprocess.parse_arguments, "--test_per_category", "-1", "of at least 0"),
    (alpaca_data_preprocess_v1.parse_arguments, "--seq_length", "0", "of at least 1"),
    (alpaca_data_preprocess_v1.parse_arguments, "--file_partition", "0", "of at least 1"),
    (alpaca_data_preprocess_v1.parse_arguments, "--num_workers", "0", "of at least 1"),
    (alpaca_data_preprocess_v1.parse_arguments, "--show", "-1", "of at least 0"),
])
def test_a_number_outside_its_bounds_is_refused_with_them(capsys, parse, flag, bad, bounds):
    with pytest.raises(SystemExit) as ended:
        parse([f"{flag}={bad}"])
    assert ended.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"argument {flag}: '{bad}' is not a " in line and line.endswith(bounds)


def test_usage_names_what_the_user_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["research_internlm/upload.py"])
    assert arguments.program("upload_obs.sh") == "upload_obs.sh"
    monkeypatch.setattr("sys.argv", ["internlm upload", "--help"])
    assert arguments.program("upload_obs.sh") == "internlm upload"


def test_numbers_that_no_float_holds_are_refused():
    assert arguments.whole(1)(str(2**53)) == 2**53
    for text in (str(2**53 + 1), "9" * 400, "9" * 5000):
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.whole(1)(text)


@pytest.mark.parametrize("main, words", [
    (upload.main, ["", "obs://bucket-1/p"]), (publish.main, ["", "--to", "modelscope", "--repo", "a/b"]),
    (mirror.main, ["push", "", "obs://bucket-1/p"]), (mirror.main, ["fetch", "obs://bucket-1/p", ""])])
def test_a_variable_that_is_not_set_is_not_the_current_folder(main, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private").touch()
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "it is empty" in capsys.readouterr().err
