"""Cleaning speed of detection_csv2json.py, and texts a second of the detection evaluation in three ways.

    python benchmarks/detection.py cleaning [--essays 140000]
    bash scripts/demo_detection.sh && python benchmarks/detection.py evaluation --demo demo_detection_output

cleaning: synthetic essays of 350 words, one in fifty a near-duplicate of the one before, a third with marks
on the surface; the whole command with its start-up. evaluation: `likelihood` compares the two verdicts in
length-bucketed batches, `generate` is evaluate.py's other mode, `upstream` is MindFormers' generate one text
at a time; one process, compilation in the first pass, the second pass is timed.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from research_internlm.shared.errors import run_main

ROOT = Path(__file__).resolve().parent.parent
WORDS, VOCABULARY, BATCH = 350, 20_000, 32


def write_essays(path: Path, count: int) -> None:
    """A csv of `count` essays."""
    draw = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 10))) for _ in range(VOCABULARY)]
    weights = list(itertools.accumulate(1 / (place + 3) for place in range(VOCABULARY)))
    last: list[str] = []
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "text", "label", "prompt_name", "source"])
        for number in range(count):
            label = number % 2
            if number % 50 == 49:
                label, last = (number - 1) % 2, [*last[:-10], *draw.choices(words, k=10)]
            else:
                last = draw.choices(words, cum_weights=weights, k=WORDS)
            text = " ".join(last)
            if draw.random() < 1 / 3:
                text = f" {text[:1000]}\u00a0“{text[1000:]}” it’s "
            table.writerow([number, text, label, f"prompt {number % 15}",
                            f"model {number % 7}" if label else "pupils"])


def cleaning(essays: int) -> None:
    """Times the command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_essays(folder / "essays.csv", essays)
        size = (folder / "essays.csv").stat().st_size
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "preprocess/detection_csv2json.py", "--csv",
                                    str(folder / "essays.csv"), "--output_dir", str(folder / "out")],
                                   cwd=ROOT, stderr=subprocess.DEVNULL,
                                   env={**os.environ, "PYTHONPATH": str(ROOT)})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit("detection_csv2json.py failed")
        print(f"{essays} essays, {size / 1e6:.0f} MB: {seconds:.1f} s, "
              f"{usage.ru_utime + usage.ru_stime:.1f} s of CPU time with both workers, largest process "
              f"{usage.ru_maxrss / 1024:.0f} MiB, load {os.getloadavg()[0]:.1f}")


def evaluation(demo: Path) -> None:
    """Texts a second of each way on the demo's test and validation texts."""
    from research_internlm.data.tokens import load_tokenizer
    from research_internlm.evaluation import runner
    from research_internlm.evaluation.detection import DetectionTask
    from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)

    model_file, (checkpoint,) = demo / "tokenizer.model", (demo / "lora/checkpoint/rank_0").glob("*.ckpt")
    model = runner.EvaluatedModel(
        str(ROOT / "yaml/predict_mmlu.yaml"), str(checkpoint), str(model_file),
        [str(ROOT / "yaml/overlays/cpu_tiny.yaml")],
        [f"model.model_config.vocab_size={load_tokenizer(model_file).vocab_size()}",
         f"runner_config.batch_size={BATCH}", "model.model_config.max_new_tokens=4",
         f"output_dir={tempfile.mkdtemp()}"])
    task = DetectionTask(*(str(demo / f"data/{side}_detection.json") for side in ("test", "train", "valid")),
                         sample_length=257)
    prompts = [task.prompt(item, model.codec) for item in task.items]
    places = [task.candidates(item, model.codec) for item in task.items]
    full = [prompt + before for prompt, (before, _) in zip(prompts, places, strict=True)]
    engine = model.load(max(map(len, full)) + 4)
    few = prompts[:16]

    def upstream() -> None:
        for prompt in few:
            engine._generate_by_mindformers([prompt], 4, do_sample=False)

    ways = {"likelihood": (len(full), lambda: engine.next_token_scores(full, [ids for _, ids in places])),
            "generate": (len(prompts), lambda: engine.generate(prompts)), "upstream": (len(few), upstream)}
    for name, (count, run) in ways.items():
        run()
        started = time.perf_counter()
        run()
        print(json.dumps({"way": name, "texts": count,
                          "texts_per_second": round(count / (time.perf_counter() - started), 2),
                          "load": round(os.getloadavg()[0], 1)}))


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cleaning").add_argument("--essays", type=int, default=140_000)
    commands.add_parser("evaluation").add_argument("--demo", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if arguments.command == "cleaning":
        cleaning(arguments.essays)
    else:
        evaluation(arguments.demo)
    return 0


if __name__ == "__main__":
    run_main(main)
