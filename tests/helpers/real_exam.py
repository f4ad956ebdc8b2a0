"""The real questions, converted once for all tests (fixtures)."""

from __future__ import annotations

import json

import pytest

from preprocess import data_preprocess, mmlu_cmmlu_csv2json


@pytest.fixture(scope="session")
def real_items(real_data, tmp_path_factory):
    """File of all real questions, as mmlu_cmmlu_csv2json.py writes it."""
    path = tmp_path_factory.mktemp("real") / "items.json"
    mmlu_cmmlu_csv2json.main(["--mmlu_dir", f"{real_data}/mmlu", "--cmmlu_dir", f"{real_data}/cmmlu",
                              "--output", str(path)])
    return path


@pytest.fixture(scope="session")
def real_held_out(real_items):
    """Training, validation and test items of the real questions, held out, and the training manifest."""
    folder = real_items.parent / "held_out"
    data_preprocess.main(["--input", str(real_items), "--output_dir", str(folder), "--split", "held_out"])
    parts = [json.loads((folder / f"{part}_alpaca_format.json").read_text("utf-8"))
             for part in ("train", "valid", "test")]
    return *parts, json.loads((folder / "train_alpaca_format.json.manifest.json").read_text("utf-8"))
