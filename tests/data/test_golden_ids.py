"""Token ids and labels of all real questions against those of version f5eb039, kept as hashes.

tests/data/golden_ids.json says in `how` what is hashed. upstream_ids (tests/helpers/alpaca.py) is the second
witness: upstream's converter restated.
"""

import csv
import hashlib
import itertools
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from preprocess.exam.exam_csv import domain_of
from research_internlm.data.chat_template import encode, render_chat
from research_internlm.data.choice import answer_position, choice_input, choice_instruction, choice_output
from research_internlm.data.families import END_MARKERS
from research_internlm.data.items import render_squad
from research_internlm.data.tokens import load_tokenizer, special_tokens
from tests.helpers.alpaca import encode_items, upstream_ids

GOLDEN = json.loads(Path(__file__).with_name("golden_ids.json").read_text(encoding="utf-8"))["families"]
EXAMS = [(source, split) for source in ("mmlu", "cmmlu") for split in ("dev", "test")]

pytestmark = pytest.mark.real_data


class Digest:
    """The sha256 of samples as golden_ids.json counts them."""

    def __init__(self):
        self.hash, self.samples, self.tokens, self.supervised = hashlib.sha256(), 0, 0, 0

    def add(self, ids, supervised=None):
        self.samples += 1
        self.tokens += len(ids)
        ids = np.asarray(ids, "<i4")
        self.hash.update(np.uint32(len(ids)).astype("<u4").tobytes() + ids.tobytes())
        if supervised is not None:
            self.supervised += int(sum(supervised))
            self.hash.update(np.where(supervised, ids, -100).astype("<i4").tobytes())

    def result(self):
        supervised = {"supervised": self.supervised} if self.supervised else {}
        return {"samples": self.samples, "tokens": self.tokens, **supervised, "sha256": self.hash.hexdigest()}


@pytest.fixture(scope="module")
def questions(real_data):
    """(data set, file, question, options, key) of every csv row."""
    found = []
    for source, split in EXAMS:
        for path in sorted((real_data / source / split).glob("*.csv")):
            with open(path, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if row]
            rows = rows if source == "mmlu" else [row[1:] for row in rows[1:]]
            found += [(f"{source}/{split}", path.name, row[0], row[1:5], row[5]) for row in rows]
    return found


@pytest.fixture(scope="module")
def passages(real_data):
    articles = json.loads((real_data / "squad" / "dev-v1.1-slice.json").read_text(encoding="utf-8"))["data"]
    return [{"passage": paragraph["context"], "question": asked["question"],
             "output": asked["answers"][0]["text"]}
            for article in articles for paragraph in article["paragraphs"] for asked in paragraph["qas"]]


@pytest.fixture(scope="module", params=sorted(GOLDEN))
def vocabulary(request, real_data):
    processor = load_tokenizer(real_data / "tokenizers" / f"{request.param}.model")
    return processor, special_tokens(processor)


def dev_splits(questions):
    """The first twentieth."""
    return [question for question in questions if question[0].endswith("/dev")]


def exam_item(file, question, options, key, form):
    return {"instruction": choice_instruction(domain_of(file)), "input": choice_input(question, options),
            "output": choice_output(key, options["ABCD".index(key)] if form == "full" else "")}


def kept(names, results):
    """Digests by name of the data set."""
    found = defaultdict(Digest)
    for name, result in zip(names, results, strict=True):
        found[name].add(*result)
    return {name: digest.result() for name, digest in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("end", END_MARKERS)
def test_training_samples_of_real_questions_are_unchanged(vocabulary, questions, passages, end):
    """All of them in the form that is trained; the other forms, which end otherwise, of the dev splits."""
    processor, special = vocabulary
    golden = GOLDEN[special.family]
    for form in ("full", "letter"):
        asked = questions if (form, end) == ("full", "eoa") else dev_splits(questions)
        items = [exam_item(*question, form) for _, *question in asked]
        samples = encode_items(items, processor, special, 1, end)
        if special.family == "internlm" and end == "eoa":
            samples, copy = itertools.tee(samples)
            for item, (ids, supervised) in zip(items[::10], itertools.islice(copy, 0, None, 10), strict=True):
                expected = upstream_ids(item, processor, special["end_of_user"], special["end_of_assistant"])
                assert (list(ids), list(supervised).index(True)) == expected
        names = [name for name, *_ in asked]
        assert kept(names, samples) == {name: golden[name][f"{form}, {end}"] for name in set(names)}
    if end == "eoa":
        reading = kept(["squad"] * len(passages), encode_items(passages, processor, special, 1, end))
        assert reading["squad"] == golden["squad"]["full"]


def test_prompts_of_real_questions_are_unchanged(vocabulary, questions, passages):
    processor, special = vocabulary
    golden = GOLDEN[special.family]
    questions = dev_splits(questions)  # prompts of all of them begin the training samples
    names = [name for name, *_ in questions]
    prompts, letters = [], []
    for _, file, question, options, _ in questions:
        segments = render_chat(choice_instruction(domain_of(file)), choice_input(question, options),
                               family=special.family)
        prompts.append(encode(segments, processor, special)[:1])
        letters.append([list(itertools.chain(*answer_position(options, processor)))])
    assert kept(names, prompts) == {name: golden[name]["prompt"] for name in set(names)}
    assert kept(names, letters) == {name: golden[name]["letters"] for name in set(names)}
    asked = [encode(render_squad(item["passage"], item["question"]), processor, special)[:1]
             for item in passages]
    assert kept(["squad"] * len(asked), asked)["squad"] == golden["squad"]["prompt"]


def test_special_ids_are_unchanged(vocabulary):
    _, special = vocabulary
    assert special.manifest_entry() == {**GOLDEN[special.family]["special_ids"],
                                        "vocab_size": special.vocab_size}
