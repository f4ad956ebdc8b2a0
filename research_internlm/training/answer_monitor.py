"""AnswerMonitor: the model answers given prompts before, during and after training.

A loss does not say when an assistant begins to answer everything with its own name; its answers do. They
come from the training weights themselves (answering.py), so the model is in memory once.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mindformers.models.llama import LlamaForCausalLM
from mindformers.tools.logger import logger
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.tools.utils import get_output_root_path, get_real_rank
from mindformers.utils.tensorboard import get_tensorboard_writer
from mindspore.train.callback import Callback, RunContext

from research_internlm.runs.answers_file import (
    Answer,
    StepAnswers,
    append,
    drop_after,
    examples,
    read_answers,
)
from research_internlm.shared.run_layout import ANSWERS
from research_internlm.training.answer_prompts import read_prompts
from research_internlm.training.answering import Answerer


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class AnswerMonitor(Callback):
    """Answers prompts greedily before training, every n steps, and of all weights that are saved.

    Every rank answers, from the same weights, and rank 0 writes: ranks that waited for it at their first
    exchange would be ended by HCCL's connection timeout (120 s) where the decoder takes longer to compile. A
    run that is continued answers again where a kill came between a save and its answers, and takes out what
    it will do again.

    Args:
        prompts: A list of questions, a .txt file with one a line, or a .held_out.json of assistant_data.py,
            whose answers are judged too.
        every_n_steps: Optimizer steps between two rounds; in sink mode the next end of a sink.
        max_new_tokens: Longest answer.
        model_file: tokenizer.model of the weights; --model_file.
    """

    def __init__(self, prompts: Any = None, every_n_steps: int = 0, max_new_tokens: int = 64,
                 model_file: str = "") -> None:
        super().__init__()
        self._settings = prompts, model_file, max_new_tokens
        self._every, self._max_new_tokens = every_n_steps, max_new_tokens
        self._is_writer = get_real_rank() == 0
        self._path = Path(get_output_root_path(), ANSWERS)
        self._network: Any = None
        self._answerer: Answerer | None = None
        self._seen_step = self._answered_step = -1

    def begin(self, run_context: RunContext) -> None:
        """Answers before the first step; CheckpointMonitor, which comes before, has set the step."""
        parameters = run_context.original_args()
        self._seen_step = step = parameters.cur_step_num or 0
        self._network = next(cell for _, cell in parameters.network.cells_and_names()
                             if isinstance(cell, LlamaForCausalLM))
        if self._is_writer:
            drop_after(self._path, step)
        if step == 0 or step not in {line.step for line in read_answers(self._path)}:
            self._answer(step)

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Answers where it is time, or where CheckpointMonitor, which comes before, has saved."""
        step, before = run_context.original_args().cur_step_num, self._seen_step
        self._seen_step = step
        if step // self._every > before // self._every or _is_saved(run_context):
            self._answer(step)

    def on_train_end(self, run_context: RunContext) -> None:
        """Answers where CheckpointMonitor has saved the last step only now."""
        if _is_saved(run_context) and self._answered_step != self._seen_step:
            self._answer(self._seen_step)

    def _answer(self, step: int) -> None:
        self._answered_step, start = step, time.monotonic()
        if self._answerer is None:  # its prompts were checked before training
            config = self._network.config
            prompts = read_prompts(*self._settings, {"vocab_size": config.vocab_size,
                                                     "seq_length": config.seq_length})
            self._answerer = Answerer(self._network, prompts, self._max_new_tokens)
        self._network.set_train(False)  # no dropout
        try:
            answers = self._answerer.answers()
        finally:
            self._network.set_train(True)
        if self._is_writer:
            self._write(step, answers, time.monotonic() - start)

    def _write(self, step: int, answers: list[Answer], seconds: float) -> None:
        line = StepAnswers.now(step, seconds, answers)
        try:
            append(self._path, line)
        except OSError as error:  # a full disk need not end a training
            logger.warning("%s lacks step %d: %s", ANSWERS, step, error)
        verdict = line.verdict()
        logger.info("answers of step %d: %d in %.2f s, %.3f s each%s", step, len(answers), line.seconds,
                    line.seconds / len(answers), f"; {verdict}" if verdict else "")
        for answer in examples(answers):
            logger.info("answer of step %d: %r -> %r", step, answer.question, answer.answer)
        if (writer := get_tensorboard_writer()) is not None:
            for place, answer in enumerate(answers, 1):
                writer.add_text(f"answers/{place}", f"{answer.question}\n\n{answer.answer}", global_step=step)


def _is_saved(run_context: RunContext) -> bool:
    """Whether CheckpointMonitor has saved the step."""
    parameters = run_context.original_args()
    return parameters.get("last_saved_step") == parameters.cur_step_num
