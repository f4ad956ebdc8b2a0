"""Alpaca items and the ids that upstream's converter gives them."""

from __future__ import annotations

import json

from preprocess.mindrecord import encoding
from research_internlm.data.choice import choice_input, choice_instruction, choice_output
from research_internlm.recipes.data_check import mindrecord_files


def upstream_ids(item, processor, eoh, eoa):
    """The sequence of research/internlm/alpaca_data_preprocess.py, see docs/traps.md#contest-strings."""
    user = processor.encode("<|User|>:" + item["instruction"] + "\n" + item["input"])
    bot, answer = processor.encode("<|Bot|>:"), processor.encode(item["output"])
    ids = [1, *user, eoh, 13, *bot, *answer, eoa, 13, 2]
    return ids, 1 + len(user) + 2 + len(bot)


def read_rows(path):
    from mindspore.mindrecord import FileReader

    return [(row["input_ids"], row["labels"]) for name in [mindrecord_files(path)[0]]
            for row in FileReader(name).get_next()]


def write_items(path, items):
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return path


def item(question="Which?", options=("one", "two", "three", "four"), letter="B"):
    return {"instruction": choice_instruction("numbers"), "input": choice_input(question, options),
            "output": choice_output(letter, options["ABCD".index(letter)])}


def encode_items(*arguments):
    """The samples of all blocks, one by one."""
    return (sample for block in encoding.encode_blocks(*arguments) for sample in block.samples())
