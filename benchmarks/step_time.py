"""Step time of the tiny InternLM with LoRA rank 16: MindSpore as the Trainer runs it, and PyTorch + PEFT.

    python benchmarks/step_time.py [--rounds 4]               steps of several shapes, and the cost model
    python benchmarks/step_time.py --compile 2 4 8 16         time to the first step against depth

Needs the extra `hf`. Both work in float32 with two threads on the same rows of whole samples: 146 tokens,
the last 16 supervised. Each side of a shape is one process; they take turns, a few steps each, so that
other load on the machine meets both, and the fastest step counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from research_internlm.shared.errors import run_main

ROOT = Path(__file__).resolve().parent.parent
# hidden, layers, seq_length, batch
SHAPES = ((128, 4, 256, 4), (256, 4, 256, 4), (128, 4, 1024, 1), (128, 4, 512, 4))
VOCAB, SAMPLE, ANSWER = 1200, 146, 16
THREADS = 2
STEPS = 15  # of one turn


def rows(seq_length: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and labels (batch, seq_length + 1): whole samples in a row, then padding."""
    ids = np.random.default_rng(0).integers(3, VOCAB, (batch, seq_length + 1)).astype(np.int32)
    labels = np.full_like(ids, -100)
    filled = (seq_length + 1) // SAMPLE * SAMPLE
    ids[:, filled:] = 0
    for end in range(SAMPLE, filled + 1, SAMPLE):
        labels[:, end - ANSWER:end] = ids[:, end - ANSWER:end]
    return ids, labels


def mindspore_step(hidden: int, layers: int, seq_length: int, batch: int) -> Callable[[], float]:
    """One training step through the recipe's cells: data order, finite check, loss scale, clip, AdamW."""
    os.environ["LOG_MF_PATH"] = folder = tempfile.mkdtemp()
    os.chdir(folder)  # MindFormers writes ./output
    import mindspore
    from mindformers import MindFormerConfig, build_context
    from mindformers.core import build_lr, build_optim
    from mindformers.models.build_model import build_network
    from mindformers.wrapper import build_wrapper
    from mindformers.wrapper.wrapper import DataOrderWrapperCell

    from research_internlm import recipes
    from research_internlm.model import (
        cpu_patches,
        modeling,  # noqa: F401 (registers the model)
    )

    ids, labels = rows(seq_length, batch)
    model = {"hidden_size": hidden, "num_layers": layers, "seq_length": seq_length, "vocab_size": VOCAB,
             # As run_internlm.py fills it in from the data.
             "labels_per_row": int((labels >= 0).sum(axis=1).max())}
    recipe = recipes.resolve(ROOT / "yaml/lora_finetune.yaml", [ROOT / "yaml/overlays/cpu_tiny.yaml"], [
        *(f"model.model_config.{key}={value}" for key, value in model.items()), "use_parallel=False",
        f"output_dir={folder}", "lr_schedule.total_steps=1000"])
    cpu_patches.adapt("CPU")
    config = MindFormerConfig(str(recipes.write_resolved(recipe, Path(folder) / "config.yaml")))
    build_context(config)
    config.model.model_config.disable_lazy_inline = True  # as the Trainer does without gradient accumulation
    network = build_network(config.model)
    optimizer = build_optim(config.optimizer, default_args={"params": network.trainable_params(),
                                                            "learning_rate": build_lr(config.lr_schedule)})
    cell = build_wrapper(config.runner_wrapper, default_args={
        "network": DataOrderWrapperCell(["input_ids", "labels"], network), "optimizer": optimizer,
        "parallel_config": config.parallel_config}).set_train(True)
    ids, labels = mindspore.Tensor(ids), mindspore.Tensor(labels)
    return lambda: float(cell(ids, labels)[0].asnumpy().item())


def torch_step(hidden: int, layers: int, seq_length: int, batch: int) -> Callable[[], float]:
    """The same step in transformers + PEFT; transformers shifts the labels itself."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(THREADS)
    model = get_peft_model(
        LlamaForCausalLM(LlamaConfig(
            vocab_size=VOCAB, hidden_size=hidden, intermediate_size=-(-8 * hidden // 3 // 32) * 32,
            num_hidden_layers=layers, num_attention_heads=4, attention_bias=True, use_cache=False)),
        LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05,
                   target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    ids, labels = (torch.tensor(part[:, :-1]).long() for part in rows(seq_length, batch))

    def step() -> float:
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return loss.item()

    return step


SIDES = {"mindspore": mindspore_step, "torch": torch_step}


def serve(side: str, shape: list[int]) -> None:
    """Worker: builds, answers with the seconds of the first step, then runs one turn for every line read."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the libraries print
    started = time.perf_counter()
    step = SIDES[side](*shape)
    built = time.perf_counter() - started
    started = time.perf_counter()
    step()
    print(json.dumps([built, time.perf_counter() - started]), file=answers, flush=True)
    for _ in sys.stdin:
        times = []
        for _ in range(STEPS):
            started = time.perf_counter()
            step()
            times.append(time.perf_counter() - started)
        print(json.dumps(min(times)), file=answers, flush=True)


class Worker:
    """One side of one shape in a process of its own."""

    def __init__(self, side: str, shape: tuple[int, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", side, *map(str, shape)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(THREADS)} if side == "torch" else None)
        self.built, self.first = json.loads(self.process.stdout.readline())

    def turn(self) -> float:
        """Seconds of the fastest of STEPS steps."""
        print(file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def compare(rounds: int) -> Iterator[tuple[tuple[int, ...], float, float]]:
    """Fastest step in seconds of both sides for each shape."""
    for shape in SHAPES:
        workers = {side: Worker(side, shape) for side in SIDES}
        best = dict.fromkeys(SIDES, float("inf"))
        for _ in range(rounds):
            for side, worker in workers.items():
                best[side] = min(best[side], worker.turn())
        for worker in workers.values():
            worker.close()
        yield shape, best["mindspore"], best["torch"]


def cost_model_errors(measured: dict[tuple[int, ...], float]) -> Iterator[str]:
    """Table rows: steps at other lengths predicted by planning/cost.py from the first shape's step."""
    from research_internlm.planning import cost
    from research_internlm.planning.flops import Shape
    from research_internlm.planning.points import Point
    from research_internlm.recipes.recipe import resolve

    recipe = resolve(ROOT / "yaml/lora_finetune.yaml", [ROOT / "yaml/overlays/cpu_tiny.yaml"])
    config = {**recipe["model"]["model_config"], "vocab_size": VOCAB}

    def shape(length: int, batch: int) -> Shape:
        labels = int((rows(length, batch)[1] >= 0).sum(axis=1).max())
        return Shape(rows=batch, seq_length=length, packed=True, recompute=False, head_places=labels)

    (_, _, length, batch), seconds = next(iter(measured.items()))
    anchor = Point(shape=shape(length, batch), step_ms=seconds * 1e3)
    model = cost.fit([anchor], config, config, "one step", True)
    for (hidden, _, length, batch), seconds in list(measured.items())[1:]:
        if hidden == config["hidden_size"]:
            predicted = model.step(shape(length, batch)).best
            yield (f"| {length} x {batch} | {predicted:.0f} | {seconds * 1e3:.0f} | "
                   f"{predicted / seconds / 1e3 - 1:+.0%} |")


def main(argv: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="turns of each side (default: %(default)s)")
    parser.add_argument("--compile", type=int, nargs="+", metavar="LAYERS",
                        help="measure the first step instead")
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve:
        serve(arguments.serve[0], list(map(int, arguments.serve[1:])))
    elif arguments.compile:
        print("| layers | build, s | first step, s |\n|---|---|---|")
        for layers in arguments.compile:
            worker = Worker("mindspore", (64, layers, SAMPLE, 2))
            print(f"| {layers} | {worker.built:.1f} | {worker.first:.1f} |", flush=True)
            worker.close()
    else:
        print("| hidden x layers | seq x batch | MindSpore, ms | PyTorch, ms | useful tokens/s | ratio |\n"
              "|---|---|---|---|---|---|")
        measured = {}
        for shape, ours, peer in compare(arguments.rounds):
            hidden, layers, length, batch = shape
            measured[shape] = ours
            useful = length // SAMPLE * SAMPLE * batch
            print(f"| {hidden} x {layers} | {length} x {batch} | {ours * 1e3:.0f} | {peer * 1e3:.0f} | "
                  f"{useful / ours:,.0f} / {useful / peer:,.0f} | {peer / ours:.2f} |", flush=True)
        print("\n| cost model: seq x batch | predicted, ms | measured, ms | error |\n|---|---|---|---|")
        print("\n".join(cost_model_errors(measured)))
    return 0


if __name__ == "__main__":
    run_main(main)
