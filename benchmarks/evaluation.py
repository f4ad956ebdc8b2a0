"""Questions per second of the evaluation against upstream-style generation, and whether the letters agree.

    bash scripts/demo.sh && python benchmarks/evaluation.py --demo demo_output [--long 146]

On the demo's tuned tiny model, three ways, each in a process of its own: `upstream` is MindFormers' generate,
a question at a time, max_new_tokens 200, ended by `</s>` only; `generate` is evaluate.py's default (batches,
the static key-value cache); `logits` compares the four letters in length-bucketed batches. Two rows each: the
demo's own test questions, and the same ones under a longer instruction of as many tokens as real questions
have. Compilation is told apart: the first pass has it, the second has not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from research_internlm.evaluation import runner
from research_internlm.shared.errors import run_main

ROOT = Path(__file__).resolve().parent.parent
NEW_TOKENS = 200
BATCH = 32


def load(demo: Path, long: int) -> tuple[Any, list[Any], list[list[int]]]:
    """The demo's tuned weights, its questions and their prompts of about `long` tokens."""
    from research_internlm import recipes
    from research_internlm.evaluation.mmlu import MmluTask
    from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)

    model_file = demo / "tokenizer.model"
    checkpoint = max((demo / "lora/checkpoint/rank_0").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    size = recipes.model_config(recipes.load_yaml(demo / "lora/resolved_config.yaml"))
    evaluated = runner.EvaluatedModel(
        str(ROOT / "yaml/predict_mmlu.yaml"), str(checkpoint), str(model_file),
        [str(ROOT / "yaml/overlays/cpu_tiny.yaml")],
        [*(f"model.model_config.{key}={size[key]}" for key in ("vocab_size", "num_layers", "num_heads")),
         f"runner_config.batch_size={BATCH}", "model.model_config.seq_length=512",
         f"output_dir={tempfile.mkdtemp()}"])
    tasks = [MmluTask(str(demo / test / "test_alpaca_format.json")) for test in ("reordered", "held_out")]
    asked = [(item, task.prompt(item, evaluated.codec)) for task in tasks for item in task.items]
    return evaluated, [item for item, _ in asked], [_lengthen(prompt, long) for _, prompt in asked]


def _lengthen(prompt: list[int], length: int) -> list[int]:
    """Repeats the beginning of the user's text; the question stays at the end."""
    spare = max(0, length - len(prompt))
    filling = (prompt[1:8] * (spare // 7 + 1))[:spare]
    return [prompt[0], *filling, *prompt[1:]]


def letters_of(evaluated: Any, answers: list[list[int]]) -> list[str | None]:
    """First letter of each generated answer, as the strict extractor reads it."""
    from research_internlm.evaluation.answers import extract_letter

    return [extract_letter(evaluated.codec.decode(answer)) for answer in answers]


def upstream(evaluated: Any, prompts: list[list[int]], items: list[Any]) -> Callable[[int], list[Any]]:
    """Batch 1, whole prefix computed again for each token, as generate does without paged attention."""
    import numpy as np

    evaluated.recipe["runner_config"]["batch_size"] = 1
    network = evaluated.load(max(map(len, prompts)) + NEW_TOKENS).network

    def run(count: int) -> list[Any]:
        answers = []
        for prompt in prompts[:count]:
            output = network.generate(input_ids=np.array([prompt], np.int32), do_sample=False,
                                      max_new_tokens=NEW_TOKENS, eos_token_id=[2], pad_token_id=0)
            answers.append([int(token) for token in output[0][len(prompt):]])
        print(f"tokens an answer: {np.mean([len(answer) for answer in answers]):.0f}", file=sys.stderr)
        return letters_of(evaluated, [_cut(answer, evaluated.codec.special.stop_ids) for answer in answers])

    return run


def _cut(answer: list[int], stop_ids: Any) -> list[int]:
    return answer[:min((answer.index(stop) for stop in stop_ids if stop in answer), default=len(answer))]


def generate(evaluated: Any, prompts: list[list[int]], items: list[Any]) -> Callable[[int], list[Any]]:
    """evaluate.py mmlu."""
    evaluated.model_config["max_new_tokens"] = NEW_TOKENS
    model = evaluated.load(max(map(len, prompts)) + NEW_TOKENS)
    return lambda count: letters_of(evaluated, model.generate(prompts[:count]))


def logits(evaluated: Any, prompts: list[list[int]], items: list[Any]) -> Callable[[int], list[Any]]:
    """evaluate.py mmlu --mode logits."""
    from research_internlm.data.choice import LETTERS, answer_position

    places = [answer_position(item.options, evaluated.codec.processor) for item in items]
    full = [prompt + prefix for prompt, (prefix, _) in zip(prompts, places, strict=True)]
    model = evaluated.load(max(map(len, full)))

    def run(count: int) -> list[Any]:
        scores = model.next_token_scores(full[:count], [letter_ids for _, letter_ids in places[:count]])
        return [LETTERS[int(row.argmax())] for row in scores]

    return run


WAYS = {"upstream": upstream, "generate": generate, "logits": logits}


def serve(way: str, demo: Path, long: int, count: int) -> dict[str, Any]:
    """One way on `count` questions (0: all), twice."""
    evaluated, items, prompts = load(demo, long)
    run = WAYS[way](evaluated, prompts, items)
    count = count or len(prompts)
    seconds = []
    # One question compiles upstream's only graph; the batched ways compile a graph for each length.
    for number in (1 if way == "upstream" else count, count):
        started = time.perf_counter()
        letters = run(number)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "count": count, "letters": letters,
            "mean_prompt": sum(map(len, prompts)) / len(prompts)}


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="output folder of scripts/demo.sh")
    parser.add_argument("--long", type=int, default=146, help="tokens of the lengthened prompts "
                        "(default: %(default)s)")
    parser.add_argument("--questions", type=int, default=12, metavar="N",
                        help="questions for upstream's way, which is slow (default: %(default)s)")
    parser.add_argument("--serve", nargs=3, metavar="X", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve:
        way, long, output = arguments.serve
        count = arguments.questions if way == "upstream" else 0
        Path(output).write_text(json.dumps(serve(way, arguments.demo, int(long), count)))
        return 0
    print("| prompt, tokens | way | questions | seconds | with compilation | questions/s | / upstream |\n"
          "|---|---|---|---|---|---|---|")
    for long in (0, arguments.long):
        found = {}
        for way in WAYS:
            with tempfile.NamedTemporaryFile() as output:
                subprocess.run([sys.executable, __file__, "--demo", arguments.demo, "--questions",
                                str(arguments.questions), "--serve", way, str(long), output.name],
                               check=True, stdout=subprocess.DEVNULL)
                found[way] = json.loads(Path(output.name).read_text())
            first, second = found[way]["seconds"]
            rate = found[way]["count"] / second
            base = found["upstream"]["count"] / found["upstream"]["seconds"][1]
            print(f"| {found[way]['mean_prompt']:.0f} | {way} | {found[way]['count']} | {second:.1f} | "
                  f"{first:.1f} | {rate:.2f} | {rate / base:.1f} |", flush=True)
        both = list(zip(found["generate"]["letters"], found["logits"]["letters"], strict=True))
        answered = [pair for pair in both if pair[0]]
        print(f"\nletters of logits and generate: {sum(a == b for a, b in answered)} of {len(answered)} "
              f"answers with a letter agree ({len(both) - len(answered)} without)\n", flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
