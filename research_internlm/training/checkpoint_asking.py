"""Asks the saved weights of a run that was trained without AnswerMonitor, or with other questions.

One network on one device; the weights of each step are loaded into it in turn.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.checkpoints.merging import merge
from research_internlm.runs.answers_file import StepAnswers
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import require_file
from research_internlm.training.answer_prompts import AnswerPrompts, read_prompts


def ask_checkpoints(run: Path, files: Mapping[int, Sequence[str]], prompts: Any, model_file: str,
                    max_new_tokens: int) -> Iterator[StepAnswers]:
    """Loads and asks one checkpoint after the other.

    Args:
        run: The run's folder; its resolved config says the model and the device.
        files: Step -> the files of its weights: a full checkpoint, or a state and the adapter.
        prompts: As for AnswerMonitor.
        model_file: tokenizer.model of the weights.
        max_new_tokens: Longest answer.

    Raises:
        ToolkitError: Config, prompts or weights are missing, wrong or do not fit together.
    """
    recipe = recipes.load_yaml(run / run_layout.RESOLVED_CONFIG)
    config = recipes.model_config(recipe)
    asked = read_prompts(prompts, model_file, max_new_tokens, config)
    base = recipe.get("load_checkpoint")
    recipe |= {"use_parallel": False, "run_mode": "predict", "load_checkpoint": "", "resume_training": False,
               "callbacks": []}
    answerer = None
    for step, names in files.items():
        start = time.monotonic()
        with _weights(run, names, base) as path:
            if answerer is None:
                network, answerer = _open(recipe, path, asked, max_new_tokens)
            else:
                from research_internlm.inference.loading import load_into

                load_into(network, path, config.get("pet_config"))
        answers = answerer.answers()
        yield StepAnswers.now(step, time.monotonic() - start, answers)


def _open(recipe: recipes.Recipe, path: Path, asked: AnswerPrompts, max_new_tokens: int) -> tuple[Any, Any]:
    """The network with its first weights, and who asks it."""
    from research_internlm.inference.engine import Engine
    from research_internlm.training.answering import Answerer

    engine = Engine(recipe, path, asked.codec.special.stop_ids)
    network = engine.score_network
    return network, Answerer(network, asked, max_new_tokens)


@contextlib.contextmanager
def _weights(run: Path, names: Sequence[str], base: str | None) -> Iterator[Path]:
    """A file with all weights of a step; a state has the adapter only, which is merged into the base."""
    path = run / names[0]
    if not run_layout.is_state(path):
        yield path
        return
    if len(names) == 1:
        raise ToolkitError(f"{path} holds no base weights, and there is no adapter file of its step beside "
                           "it; train with save_trainable_params: True, or full_checkpoints: all")
    with tempfile.TemporaryDirectory(prefix="internlm_weights_") as folder:
        merged = Path(folder) / "merged.safetensors"
        base_file = require_file(base or "", "the base weights of the run")
        merge(base_file, run / names[1], merged, overwrite=False)
        yield merged
