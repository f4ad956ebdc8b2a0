"""A model that writes what a test tells it to: the interfaces of inference/ without a network."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np
import uvicorn
from sentencepiece import sentencepiece_model_pb2

from research_internlm.inference.scoring import PromptScores
from research_internlm.serving.app import Settings, build_app
from research_internlm.serving.scheduler import LoadedModel, Scheduler

_NORMAL = sentencepiece_model_pb2.ModelProto.SentencePiece.NORMAL


def internlm2_tokenizer(internlm: Path, output: Path) -> Path:
    """The demo's tokenizer with InternLM2's special pieces at its end, those of tool calls too."""
    model = sentencepiece_model_pb2.ModelProto.FromString(internlm.read_bytes())
    del model.pieces[-2:]
    for number in range(141, 147):
        model.pieces.add(piece=f"[UNUSED_TOKEN_{number}]", type=_NORMAL, score=0.0)
    model.trainer_spec.vocab_size = len(model.pieces)
    output.write_bytes(model.SerializeToString())
    return output


class ScriptedRows:
    """Rows whose answers `answer(prompt ids)` gives as token ids; the logits say nothing else.

    `gate`, a semaphore, lets so many steps through; None lets all.
    """

    def __init__(self, codec, answer: Callable[[list[int]], list[int]], rows: int = 4, seq_length: int = 256,
                 gate: threading.Semaphore | None = None) -> None:
        self.rows, self.seq_length, self.gate = rows, seq_length, gate
        self._codec, self._answer = codec, answer
        self._scripts: dict[int, Iterator[int]] = {}
        self.admitted: list[int] = []  # how many prompts each time

    def admit(self, prompts):
        if prompts:
            self.admitted.append(len(prompts))
        for row, ids in prompts.items():
            self._scripts[row] = iter([*self._answer(list(ids)), *self._codec.special.stop_ids])
        return {row: self._logits(row) for row in prompts}

    def step(self, tokens):
        if self.gate:
            assert self.gate.acquire(timeout=20)
        return {row: self._logits(row) for row in tokens}

    def _logits(self, row):
        logits = np.zeros(self._codec.special.vocab_size, np.float32)
        logits[next(self._scripts[row])] = 50.0
        return logits


class ScriptedScorer:
    """Scores by a rule: the likeliest token after id i is i + 1 with logprob -0.5, all others have -2."""

    def score(self, prompts, top):
        scores = []
        for ids in prompts:
            following = np.array(ids) + 1
            others = [[one, *(other for other in range(top) if other != one)][:top] for one in following]
            own = np.where(np.array(ids[1:]) == following[:-1], -0.5, -2.0).astype(np.float32)
            values = np.tile(np.array([-0.5] + [-2.0] * (top - 1), np.float32), (len(ids), 1))
            scores.append(PromptScores(own, np.array(others), values))
        return scores


def started(codec, answer, limit: int = 64, others=MappingProxyType({}), **rows) -> Scheduler:
    """A scheduler of the scripted model `base`, and of `others`: name -> answer."""
    def load(one):
        return LoadedModel(ScriptedRows(codec, one, **rows), ScriptedScorer(), codec)

    answers = {"base": answer, **others}
    scheduler = Scheduler({name: functools.partial(load, one) for name, one in answers.items()}, limit)
    scheduler.start()
    return scheduler


@contextlib.contextmanager
def serving(scheduler: Scheduler, settings: Settings) -> Iterator[str]:
    """A real HTTP server over a scheduler; gives its address."""
    server = uvicorn.Server(uvicorn.Config(build_app(scheduler, settings), port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(0.02)
        [port] = {socket.getsockname()[1] for listener in server.servers for socket in listener.sockets}
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        scheduler.close()
