"""Runs the project's commands as a user does."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from research_internlm.data.choice import ALPACA_KEYS, read_choice
from tests.helpers.warm import ROOT, run_warm


def run_script(script: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess:
    """Runs one of the project's entry points as a user does, from the root."""
    # What importing the package sets here, an entry point must set itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROTOCOL_BUF")}
    done = subprocess.run([sys.executable, script, *map(str, arguments)], cwd=ROOT, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, env=environment, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def assert_user_error(done: subprocess.CompletedProcess, *words: str) -> None:
    """Checks exit code 2 and one clear line, without a traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def exam_items(demo_data: Path) -> list[dict[str, str]]:
    """The demo's exam questions with completed answers, all categories mixed, as alpaca items."""
    items = [read_choice(item, "the exam").item(completed=True)
             for item in json.loads((demo_data / "alpaca.json").read_text())]
    random.Random(0).shuffle(items)
    return [{key: item[key] for key in ALPACA_KEYS} for item in items]


def convert_items(folder: Path, tokenizer: Path, items: list[dict[str, str]], *options: object) -> Path:
    """Makes folder/train.mindrecord of items."""
    (folder / "items.json").write_text(json.dumps(items))
    run_warm("preprocess/alpaca_data_preprocess_v1.py", "--input_glob", folder / "items.json",
               "--output_file", folder / "train.mindrecord", "--model_file", tokenizer, *options)
    return folder / "train.mindrecord"
