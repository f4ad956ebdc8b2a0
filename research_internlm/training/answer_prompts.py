"""What AnswerMonitor asks: its settings read and checked, and its prompts encoded. No MindSpore.

Whatever is wrong with them is found before training, by the launcher too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.data.chat_template import render_messages
from research_internlm.data.families import USER
from research_internlm.data.identity import IDENTITY, MeasuredQuestions, is_parrot, is_right
from research_internlm.inference.text_codec import TextCodec
from research_internlm.model import cpu_patches
from research_internlm.recipes.schedule import writing_workers
from research_internlm.runs.answers_file import Answer
from research_internlm.shared import schema
from research_internlm.shared.arguments import is_whole
from research_internlm.shared.errors import ToolkitError, added_to
from research_internlm.shared.files import read_text

ANSWER_MONITOR = "AnswerMonitor"
_WHERE = f"callbacks.{ANSWER_MONITOR}"
_MOST_PROMPTS = 1000


@dataclass(frozen=True)
class AnswerPrompts:
    """Prompts, encoded.

    Attributes:
        questions: Messages of each; of held-out questions also what an answer is measured by.
        measured: The held-out questions where `prompts` names a file of them, else None.
        codec: The tokenizer.
        ids: Token ids of each prompt.
    """

    questions: list[list[dict[str, str]]]
    measured: MeasuredQuestions | None
    codec: TextCodec
    ids: list[list[int]]

    def answers(self, tokens: list[list[int]], ended: list[bool]) -> list[Answer]:
        """The answers of the model, judged where there is something to judge by.

        Args:
            tokens: New token ids of each prompt, without the end marker.
            ended: Whether the end marker came.
        """
        found = []
        for place, messages in enumerate(self.questions):
            text = self.codec.decode(tokens[place])
            found.append(Answer(messages=messages, answer=text, ended=ended[place],
                                **self._judged(place, text)))
        return found

    def _judged(self, place: int, text: str) -> dict[str, Any]:
        if self.measured is None:
            return {}
        question, identity = self.measured.questions[place], self.measured.identity
        passed = (is_right(text, question, identity) if question.kind == IDENTITY
                  else not is_parrot(text, question, identity))
        return {"kind": question.kind, "passed": passed}


def read_prompts(prompts: Any, model_file: Any, max_new_tokens: int, model_config: Mapping[str, Any]
                 ) -> AnswerPrompts:
    """Reads and encodes the prompts of AnswerMonitor.

    Args:
        prompts: A list of questions, a .txt file with one a line, or a file of held-out questions as
            preprocess/assistant_data.py writes it.
        model_file: tokenizer.model of the weights.
        max_new_tokens: Longest answer.
        model_config: The recipe's.

    Raises:
        ToolkitError: One of them is missing or not valid, or a prompt leaves no room for its answer.
    """
    questions, measured = _questions(prompts)
    if not isinstance(model_file, str) or not model_file:
        raise ToolkitError(f"{_WHERE} needs the tokenizer of the weights: pass --model_file tokenizer.model, "
                           f"or train without answers with {_WHERE}=null")
    codec = TextCodec(model_file, model_config["vocab_size"])
    ids = [codec.encode(render_messages(messages, codec.special.family)) for messages in questions]
    room = model_config["seq_length"] - max_new_tokens
    if too_long := [place for place, prompt in enumerate(ids, 1) if len(prompt) > room]:
        raise ToolkitError(f"{_WHERE}: question(s) {', '.join(map(str, too_long[:5]))} have more than the "
                           f"{room} tokens that max_new_tokens {max_new_tokens} leaves of seq_length "
                           f"{model_config['seq_length']}; shorten them or max_new_tokens")
    return AnswerPrompts(questions, measured, codec, ids)


def _questions(prompts: Any) -> tuple[list[list[dict[str, str]]], MeasuredQuestions | None]:
    if isinstance(prompts, str) and Path(prompts).suffix == ".json":
        measured = schema.read(prompts, MeasuredQuestions, f"{_WHERE}.prompts", "give the .held_out.json "
                               "that preprocess/assistant_data.py writes")
        _require_answerable(measured, prompts)
        return [question.messages for question in measured.questions], measured
    if isinstance(prompts, str) and prompts:
        prompts = [line for line in read_text(prompts, f"{_WHERE}.prompts").splitlines() if line.strip()]
    if not (isinstance(prompts, list) and 0 < len(prompts) <= _MOST_PROMPTS
            and all(isinstance(text, str) and text.strip() for text in prompts)):
        raise ToolkitError(f"{_WHERE}.prompts must be a list of 1 to {_MOST_PROMPTS} questions, a .txt file "
                           f"with one a line, or a .held_out.json; found {prompts!r:.60}")
    return [[{"role": USER, "content": text}] for text in prompts], None


def _require_answerable(measured: MeasuredQuestions, path: str) -> None:
    """Refuses questions that cannot be asked or measured."""
    for place, question in enumerate(measured.questions, 1):
        roles = [message.keys() == {"role", "content"} and message["role"] for message in question.messages]
        if not roles or roles[-1] != USER:
            raise ToolkitError(f"question {place} of {path} does not end in a message of the user with role "
                               "and content; make the file again with preprocess/assistant_data.py")
        if question.kind == IDENTITY and question.wanted is None:
            raise ToolkitError(f"question {place} of {path} is about the identity, but does not say what is "
                               "wanted")
    if not 0 < len(measured.questions) <= _MOST_PROMPTS:
        raise ToolkitError(f"{path} holds {len(measured.questions)} questions, 1 to {_MOST_PROMPTS} can be "
                           "asked")


def problems(recipe: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the AnswerMonitor of a resolved training recipe, if it has one."""
    settings = recipes.callback(recipe, ANSWER_MONITOR)
    if settings is None:
        return
    wrong = [key for key in ("every_n_steps", "max_new_tokens") if not is_whole(settings.get(key, 64), 1)]
    yield from (f"{_WHERE}.{key} is {settings.get(key)!r}, but has to be a whole number of at least 1"
                for key in wrong)
    if "every_n_steps" not in settings:
        yield f"{_WHERE}.every_n_steps is missing: the number of steps between two rounds of answers"
    config = recipes.model_config(recipe)
    if not cpu_patches.has_plain_layers(config):
        yield (f"{_WHERE} needs plain layers: remove qkv_concat and residual_dtype from the model_config, or "
               f"the callback with {_WHERE}=null")
    if recipe.get("use_parallel") and writing_workers(recipe, 2) != 1:
        yield (f"{_WHERE} needs whole weights on a card (parallel.parallel_mode 0, no parallel optimizer); "
               f"train without it with {_WHERE}=null")
    found: list[str] = []
    with added_to(found):
        read_prompts(settings.get("prompts"), settings.get("model_file"),
                     1 if wrong else settings.get("max_new_tokens", 64), config)
    yield from found
