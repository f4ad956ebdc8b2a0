"""run_internlm's predict mode: answers one question, or a file of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.checkpoints.model_match import require_weights
from research_internlm.data.chat_template import render_chat
from research_internlm.data.item_files import read_items
from research_internlm.inference.engine import Engine
from research_internlm.inference.text_codec import TextCodec
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_text, write_json

_FILE_KINDS = (".json", ".jsonl", ".txt")  # a name that ends so is a file, whether it exists or not


def check_predict(recipe: Mapping[str, Any], data: str | None, model_file: str | None) -> None:
    """Checks what `predict` reads, before anything is written.

    Raises:
        ToolkitError: Data, tokenizer or checkpoint are missing or not valid.
    """
    if not data or not model_file or not recipe.get("load_checkpoint"):
        raise ToolkitError("predict needs --predict_data (a question or a file), --model_file "
                           "(tokenizer.model) and --load_checkpoint")
    _prompts(recipe, read_questions(data), model_file)
    require_weights(recipe["load_checkpoint"], recipes.model_config(recipe))


def predict(recipe: Mapping[str, Any], data: str, model_file: str) -> None:
    """Writes predictions.json into the output folder and prints each answer.

    Args:
        recipe: Resolved predict recipe with `load_checkpoint` and `output_dir`.
        data: A question, a text file with a question a line, or alpaca items as JSON or JSON Lines.
        model_file: tokenizer.model of the weights.

    Raises:
        ToolkitError: Data or tokenizer are not valid, or a prompt leaves no room to answer.
    """
    questions = read_questions(data)
    codec, prompts = _prompts(recipe, questions, model_file)
    engine = Engine(recipe, recipe["load_checkpoint"], codec.special.stop_ids)
    answers = [codec.decode(ids) for ids in engine.generate(prompts)]
    for (instruction, text), answer in zip(questions, answers, strict=True):
        print(f"> {instruction}" + (f"\n{text}" if text else "") + f"\n{answer}\n")
    write_json(Path(recipe["output_dir"]) / "predictions.json", [
        {"instruction": instruction, "input": text, "prediction": answer}
        for (instruction, text), answer in zip(questions, answers, strict=True)])


def _prompts(recipe: Mapping[str, Any], questions: list[tuple[str, str]], model_file: str
             ) -> tuple[TextCodec, list[list[int]]]:
    """The tokenizer, and the token ids of each question's prompt."""
    model_config = recipes.model_config(recipe)
    codec = TextCodec(model_file, model_config["vocab_size"])
    prompts = [codec.encode(render_chat(instruction, text, family=codec.special.family))
               for instruction, text in questions]
    limit = model_config["seq_length"]
    too_long = [str(number) for number, prompt in enumerate(prompts, 1) if len(prompt) >= limit]
    if too_long:
        raise ToolkitError(f"question(s) {', '.join(too_long)} leave no room for an answer in seq_length "
                           f"{limit}")
    return codec, prompts


def read_questions(data: str) -> list[tuple[str, str]]:
    """(instruction, input) pairs of --predict_data.

    Raises:
        ToolkitError: A file is missing or not valid, holds no question or one on a passage, or the question
            itself is not valid Unicode.
    """
    path = Path(data)
    if not (data.endswith(_FILE_KINDS) or os.path.lexists(data)):
        questions = [(data, "")]
    elif path.suffix in (".json", ".jsonl"):
        items = list(read_items(path, "--predict_data", answered=False))
        if others := [str(number) for number, item in enumerate(items, 1) if "instruction" not in item]:
            raise ToolkitError(f"{path}: item(s) {', '.join(others[:5])} are conversations or questions on a "
                               "passage (evaluate.py squad asks these); predict asks items with an "
                               "instruction")
        questions = [(item["instruction"], item["input"]) for item in items]
    else:
        lines = read_text(path, "--predict_data").splitlines()
        questions = [(line, "") for line in lines if line.strip()]
    if not any(instruction.strip() for instruction, _ in questions):
        raise ToolkitError(f"--predict_data {data!r:.80} holds no question")
    try:
        data.encode()
    except UnicodeEncodeError:
        raise ToolkitError(f"--predict_data {data!r:.80} is not UTF-8") from None
    return questions
