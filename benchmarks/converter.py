"""csv to MindRecord, all six orderings, against the converter everyone starts from; memory at full size.

    python benchmarks/converter.py --data ../shared/data [--baseline 6000] [--questions 27775]

Our side is the three commands of the README with their start-up, in processes of their own. The other side
restates how research/internlm's alpaca_data_preprocess.py works: MindFormers' Python tokenizer asked for one
segment after the other, one record padded and written at a time; its imports are not counted, and its ids are
compared with ours. --questions repeats the real csv rows, each copy with a word of its own, up to that number
(0: each row once).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from research_internlm.data.rows import record_length
from research_internlm.shared.errors import run_main

ROOT = Path(__file__).resolve().parent.parent
LENGTH = 1024


def grow(data: Path, folder: Path, questions: int) -> None:
    """Copies the real csv files; rows are repeated under another question text up to `questions`."""
    files = []
    for source in ("mmlu", "cmmlu"):
        for path in sorted((data / source).glob("*/*.csv")):
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
            header = rows[:1] if source == "cmmlu" else []
            files.append((folder / path.relative_to(data), source, header, rows[len(header):]))
    total = sum(len(rows) for *_, rows in files)
    for path, source, header, rows in files:
        wanted = round(len(rows) * max(1.0, questions / total))
        repeated = [list(row) for row in itertools.islice(itertools.cycle(rows), wanted)]
        for number, row in enumerate(repeated[len(rows):]):
            row[1 if source == "cmmlu" else 0] += f" version{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(header + repeated)


def measure(*command: str | Path) -> tuple[float, float]:
    """Wall seconds and peak memory in MiB of a command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    words = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed:\n{words.decode()[-2000:]}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def upstream_way(items: list[dict[str, str]], model_file: Path, output: Path
                 ) -> tuple[float, list[list[int]]]:
    """Seconds for encoding, padding and writing one record at a time, and the ids without padding."""
    from mindspore.mindrecord import FileWriter

    from research_internlm.model.tokenizer import InternLMTokenizer

    tokenizer = InternLMTokenizer(str(model_file))
    started = time.perf_counter()
    writer = FileWriter(str(output), shard_num=1)
    writer.add_schema({"input_ids": {"type": "int32", "shape": [-1]},
                       "labels": {"type": "int32", "shape": [-1]}}, "upstream")
    length, found = record_length(LENGTH), []
    for item in items:
        user, bot, answer = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (
            f"<|User|>:{item['instruction']}\n{item['input']}", "<|Bot|>:", item["output"]))
        ids = [1, *user, 103167, 13, *bot, *answer, 103166, 13, 2]
        labels = np.array(ids, np.int32)
        labels[:len(user) + len(bot) + 3] = -100
        found.append(ids)
        if len(ids) <= length:
            pad = (0, length - len(ids))
            writer.write_raw_data([{"input_ids": np.pad(np.array(ids, np.int32), pad),
                                    "labels": np.pad(labels, pad, constant_values=-100)}])
    writer.commit()
    return time.perf_counter() - started, found


def our_way(folder: Path, model_file: Path) -> list[tuple[str, float, float, int]]:
    """Step, seconds, peak MiB and items out of each of the three commands."""
    train = folder / "train"
    steps = {
        "csv -> json": ("preprocess/mmlu_cmmlu_csv2json.py", "--mmlu_dir", folder / "mmlu", "--cmmlu_dir",
                        folder / "cmmlu", "--output", folder / "alpaca.json"),
        "json -> six orderings": ("preprocess/data_preprocess.py", "--input", folder / "alpaca.json",
                                  "--output_dir", train, "--split", "held_out", "--valid_per_category", 0,
                                  "--test_per_category", 0),
        "json -> MindRecord": ("preprocess/alpaca_data_preprocess_v1.py", "--input_glob",
                               train / "train_alpaca_format.json", "--output_file",
                               folder / "train.mindrecord", "--model_file", model_file, "--seq_length",
                               LENGTH),
        "json -> MindRecord --pack": ("preprocess/alpaca_data_preprocess_v1.py", "--input_glob",
                                      train / "train_alpaca_format.json", "--output_file",
                                      folder / "packed.mindrecord", "--model_file", model_file,
                                      "--seq_length", LENGTH, "--pack"),
    }
    found = []
    for name, command in steps.items():
        seconds, peak = measure(*command)
        output = next((train if "orderings" in name else folder).glob({
            "csv -> json": "alpaca.json.manifest.json", "json -> six orderings": "train_*.manifest.json",
            "json -> MindRecord": "train.mindrecord.manifest.json"}.get(name, "packed.*.manifest.json")))
        counts = json.loads(output.read_text(encoding="utf-8"))["counts"]
        found.append((name, seconds, peak, counts.get("samples") or counts.get("train") or counts["out"]))
    return found


def check_ids(expected: list[list[int]], path: Path) -> int:
    """Compares the first rows of our data set with the other side's ids; returns how many."""
    from mindspore.dataset import MindDataset

    rows = MindDataset(str(path), columns_list=["input_ids"], shuffle=False).create_dict_iterator(
        num_epochs=1, output_numpy=True)
    fitting = [ids for ids in expected if len(ids) <= record_length(LENGTH)]
    for ids, row in zip(fitting, rows, strict=False):
        if row["input_ids"][:len(ids)].tolist() != ids or row["input_ids"][len(ids):].any():
            raise SystemExit(f"ids differ: {ids}")
    return len(fitting)


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mmlu/, cmmlu/, tokenizers/")
    parser.add_argument("--baseline", type=int, default=6000, metavar="N",
                        help="records of the other side (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=0, metavar="N",
                        help="repeat rows up to N questions (default: no repeats)")
    arguments = parser.parse_args(argv)
    model_file = (arguments.data / "tokenizers/internlm.model").resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grow(arguments.data, folder, arguments.questions)
        steps = our_way(folder, model_file)
        items = json.loads((folder / "train/train_alpaca_format.json").read_text(encoding="utf-8"))
        # The first ordering is the costlier one for us: nothing was seen before.
        seconds, ids = upstream_way(items[:arguments.baseline], model_file, folder / "upstream.mindrecord")
        compared = check_ids(ids, folder / "train.mindrecord")
    rate = arguments.baseline / seconds
    total = sum(took for _, took, *_ in steps[:3])
    rows = [*steps, ("csv -> MindRecord, all of it", total, 0, steps[2][3]),
            ("upstream's way, json -> MindRecord", seconds, 0, arguments.baseline)]
    print("| step | items out | seconds | items/s | / upstream's way | peak, MiB |\n"
          "|---|---|---|---|---|---|")
    for step, took, peak, count in rows:
        print(f"| {step} | {count:,} | {took:.1f} | {count / took:,.0f} | {count / took / rate:.1f} | "
              f"{f'{peak:,.0f}' if peak else ''} |")
    print(f"\nids equal on the first {compared:,} rows")
    return 0


if __name__ == "__main__":
    run_main(main)
