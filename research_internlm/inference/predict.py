"""run_internlm's predict mode: answers one question, or a file of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.data.chat_template import render_chat
from research_internlm.inference.engine import Engine
from research_internlm.inference.text_codec import TextCodec
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, write_json


def predict(recipe: Mapping[str, Any], data: str | None, model_file: str | None) -> None:
    """Writes predictions.json into the output folder and prints each answer.

    Args:
        recipe: Resolved predict recipe with `load_checkpoint` and `output_dir`.
        data: A question, a text file with a question a line, or a JSON file of alpaca items.
        model_file: tokenizer.model of the weights.

    Raises:
        ToolkitError: Data, tokenizer or checkpoint are missing, or a prompt leaves no room to answer.
    """
    if not data or not model_file or not recipe.get("load_checkpoint"):
        raise ToolkitError("predict needs --predict_data (a question or a file), --model_file "
                           "(tokenizer.model) and --load_checkpoint")
    model_config = recipes.model_config(recipe)
    codec = TextCodec(model_file, model_config["vocab_size"])
    questions = _read_questions(data)
    prompts = [codec.encode(render_chat(instruction, text, family=codec.special.family))
               for instruction, text in questions]
    limit = model_config["seq_length"]
    too_long = [str(i) for i, prompt in enumerate(prompts) if len(prompt) >= limit]
    if too_long:
        raise ToolkitError(f"question(s) {', '.join(too_long)} leave no room for an answer in seq_length "
                           f"{limit}")
    engine = Engine(recipe, recipe["load_checkpoint"], codec.special.stop_ids)
    answers = [codec.decode(ids) for ids in engine.generate(prompts)]
    for (instruction, text), answer in zip(questions, answers, strict=True):
        print(f"> {instruction}" + (f"\n{text}" if text else "") + f"\n{answer}\n")
    write_json(Path(recipe["output_dir"]) / "predictions.json", [
        {"instruction": instruction, "input": text, "prediction": answer}
        for (instruction, text), answer in zip(questions, answers, strict=True)])


def _read_questions(data: str) -> list[tuple[str, str]]:
    """(instruction, input) pairs of --predict_data."""
    path = Path(data)
    if path.suffix == ".json":
        return [(item["instruction"], item.get("input", "")) for item in read_json(path, "--predict_data")]
    if path.is_file():
        return [(line, "") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(data, "")]
