"""Throughput of the server under load against one request after another, and whether answers get mixed up.

    python benchmarks/serving.py --model_file tokenizer.model [--clients 32] [--requests 4] [--rows 16]

A random model of the rehearsal's size (yaml/overlays/tiny.yaml) behind a real HTTP server. Every request has
a prompt and a length of its own, and its greedy answer is known from asking it alone before. Alone: one
request after another. Load: all clients at once, a request after the other each; half of the clients leave
their first answer in the middle and go on. Every answer that was read to its end is compared with the one
known, and the server must be empty at the end. Tokens of answers that were left are not counted.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm.shared.errors import run_main

ROOT = Path(__file__).resolve().parent.parent
SEQ_LENGTH = 256
CONFIG, OVERLAY = ROOT / "yaml/predict_mmlu.yaml", ROOT / "yaml/overlays/cpu_tiny.yaml"


def make_model(folder: Path, tokenizer: Path, rows: int) -> Any:
    """Random weights, as a model source."""
    from research_internlm import recipes
    from research_internlm.checkpoints import weight_names
    from research_internlm.checkpoints.dtypes import FLAG_TYPES, Entry
    from research_internlm.checkpoints.tensor_files import write_tensors
    from research_internlm.data.tokens import load_tokenizer
    from research_internlm.serving.model_source import ModelSource
    from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)

    overrides = (f"model.model_config.vocab_size={load_tokenizer(tokenizer).vocab_size()}",
                 f"model.model_config.seq_length={SEQ_LENGTH}", f"runner_config.batch_size={rows}",
                 f"output_dir={folder}")
    model_config = recipes.model_config(recipes.resolve(CONFIG, [OVERLAY], overrides))
    shapes, random = weight_names.parameter_shapes(model_config), np.random.default_rng(0)
    write_tensors(folder / "random.ckpt", {name: Entry(shape, FLAG_TYPES["fp32"])
                                           for name, shape in shapes.items()},
                  lambda name: [random.normal(1.0 if "norm" in name else 0.0, 0.15, shapes[name])
                                .astype(np.float32)])
    return ModelSource(str(CONFIG), str(folder / "random.ckpt"), str(tokenizer), None, (str(OVERLAY),),
                       overrides)


def make_questions(count: int, vocab_size: int) -> list[dict[str, Any]]:
    """Bodies of requests: prompts of 4 to 120 tokens, answers of 16 to 96."""
    random = np.random.default_rng(1)
    return [{"prompt": random.integers(300, vocab_size - 2, random.integers(4, 121)).tolist(),
             "max_tokens": int(random.integers(16, 97)), "temperature": 0} for _ in range(count)]


class Client:
    """What one client does; `wrong` counts answers that are not the one known."""

    def __init__(self, url: str, known: dict[str, dict[str, Any]]) -> None:
        import httpx

        self._http, self._known = httpx.Client(base_url=url, timeout=600), known
        self.tokens = self.read = self.left = self.wrong = 0

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Reads an answer to its end."""
        done = self._http.post("/v1/completions", json=body)
        done.raise_for_status()
        answer = done.json()
        self.read += 1
        self.tokens += answer["usage"]["completion_tokens"]
        known = self._known.get(json.dumps(body["prompt"]))
        self.wrong += known is not None and known["choices"][0]["text"] != answer["choices"][0]["text"]
        return answer

    def leave(self, body: dict[str, Any]) -> None:
        """Reads the beginning of an answer and goes away."""
        with self._http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            next(answer.iter_lines())
        self.left += 1


def measure(url: str, questions: list[dict[str, Any]], clients: int) -> dict[str, Any]:
    """Alone, then under load."""
    alone = Client(url, {})
    for body in questions[:clients]:  # compiles all shapes
        alone.ask(body)
    load(url, questions[:clients], clients, {})
    alone, known = Client(url, {}), {}
    started = time.perf_counter()
    for body in questions:
        known[json.dumps(body["prompt"])] = alone.ask(body)
    seconds = time.perf_counter() - started
    busy, busy_seconds = load(url, questions, clients, known)
    return {"alone": alone.tokens / seconds,
            "load": sum(client.tokens for client in busy) / busy_seconds,
            "alone_seconds": seconds, "load_seconds": busy_seconds,
            **{name: sum(getattr(client, name) for client in busy) for name in ("read", "left", "wrong")}}


def load(url: str, questions: list[dict[str, Any]], clients: int, known: dict[str, Any]
         ) -> tuple[list[Client], float]:
    """All clients at once; every second one leaves an answer first."""
    barrier = threading.Barrier(clients + 1)

    def work(number: int) -> Client:
        client, own = Client(url, known), questions[number::clients]
        barrier.wait()
        if number % 2:
            client.leave(own[0])
        for body in own:
            client.ask(body)
        return client

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(work, number) for number in range(clients)]
        barrier.wait()
        started = time.perf_counter()
        done = [one.result() for one in running]
    return done, time.perf_counter() - started


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_file", type=Path, required=True, help="tokenizer.model, e.g. the demo's")
    parser.add_argument("--clients", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--requests", type=int, default=4, help="of each client (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=16, help="answers at once (default: %(default)s)")
    arguments = parser.parse_args(argv)
    import uvicorn

    from research_internlm.serving import server
    from research_internlm.serving.app import Settings, build_app
    from research_internlm.serving.scheduler import Scheduler

    with tempfile.TemporaryDirectory() as name:
        source = make_model(Path(name), arguments.model_file, arguments.rows)
        scheduler = Scheduler({"base": functools.partial(server.load, source)}, 256)
        scheduler.start()
        http = uvicorn.Server(uvicorn.Config(build_app(scheduler, Settings()), port=0, log_config=None))
        thread = threading.Thread(target=http.run, daemon=True)
        thread.start()
        while not http.started:
            time.sleep(0.05)
        port = http.servers[0].sockets[0].getsockname()[1]
        vocab_size = scheduler.models["base"].codec.special.vocab_size
        questions = make_questions(arguments.clients * arguments.requests, vocab_size)
        found = measure(f"http://127.0.0.1:{port}", questions, arguments.clients)
        rest = scheduler.waiting + scheduler.running
        http.should_exit = True
        thread.join(30)
        scheduler.close()
    print("| requests | seconds | tokens/s |\n|---|---|---|")
    for way in ("alone", "load"):
        print(f"| {way} | {found[f'{way}_seconds']:.1f} | {found[way]:.0f} |")
    print(f"\nload / alone: {found['load'] / found['alone']:.2f}; {found['read']} of {len(questions)} "
          f"answers read to the end, {found['left']} left, {found['wrong']} wrong, {rest} in the server")
    return 0


if __name__ == "__main__":
    run_main(main)
