"""EvalScope against the server on a local csv, and evaluate.py on the same questions: the same answers."""

import csv
import json
import os
import shutil
import subprocess

import pytest

from research_internlm.data.conversations import user_text
from tests.helpers.commands import exam_items
from tests.helpers.random_served import random_model, serve
from tests.helpers.warm import run_warm

# In an environment of its own: its NumPy is newer than MindSpore's.
EVALSCOPE = shutil.which(os.environ.get("EVALSCOPE", "evalscope"))
NEW = 24  # tokens
pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.skipif(
    not EVALSCOPE, reason="EvalScope is not installed: pip install evalscope into an environment of its own, "
    "and set EVALSCOPE to the path of its command")]


def test_evalscope_gets_the_answers_of_evaluates_generate(demo_data, tmp_path):
    items = [item for item in exam_items(demo_data) if item["output"].startswith("The right option is")][:24]
    options = [*random_model(tmp_path, demo_data / "tokenizer.model"),
               f"model.model_config.max_new_tokens={NEW}"]
    test_file, data = tmp_path / "test_alpaca_format.json", tmp_path / "exam"
    test_file.write_text(json.dumps(items))
    run_warm("research_internlm/evaluate.py", "mmlu", *options, "--test_file", test_file,
             "--output", tmp_path / "result.json")
    ours = json.loads((tmp_path / "result.predictions.json").read_text())

    data.mkdir()
    with open(data / "exam.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("question", "answer"))
        rows.writerows((user_text(item["instruction"], item["input"]), item["output"]) for item in items)
    with serve(options) as url:
        subprocess.run([
            EVALSCOPE, "eval", "--model", "base", "--api-url", f"{url}/v1", "--api-key", "none",
            "--eval-type", "openai_api", "--datasets", "general_qa", "--eval-batch-size", "8",
            "--generation-config", json.dumps({"temperature": 0, "max_tokens": NEW}),
            "--dataset-args", json.dumps({"general_qa": {"local_path": str(data), "subset_list": ["exam"]}}),
            "--work-dir", tmp_path / "theirs", "--no-timestamp"], cwd=tmp_path, timeout=240, check=True)
    written = tmp_path / "theirs/predictions/base/general_qa_exam.jsonl"
    theirs = sorted(map(json.loads, written.read_text(encoding="utf-8").splitlines()),
                    key=lambda row: row["index"])
    texts = [row["model_output"]["choices"][0]["message"]["content"] for row in theirs]
    assert texts == [prediction["text"] for prediction in ours]
    assert len(set(texts)) > 10 and all(texts)
