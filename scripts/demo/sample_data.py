"""Writes the demo's data: exam csv in MMLU and CMMLU format, SQuAD v1.1 JSON, and the base corpus.

    python scripts/demo/sample_data.py --output_dir DIR

DIR/mmlu and DIR/cmmlu hold a multiple-choice question on each fact; DIR/squad.json passages with questions;
DIR/reading.json more of them, to train on beside the exam. DIR/base_corpus.json is what the tiny base model
is pre-trained on: every fact as a plain question, passages to read, and look-ups, which ask in the exam's
format, without its instruction, which option says a given text, whatever question stands before. So the base
knows the facts and what a letter stands for, and no exam; choosing the option by a fact is left for LoRA to
learn.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facts import CATEGORIES, Category

from research_internlm.data.choice import LETTERS, choice_input, choice_output
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import write_json, write_text

LOOKUPS_PER_CATEGORY = 200
PASSAGE_FACTS = 3
BASE_PASSAGES_PER_CATEGORY = 60
SQUAD_PASSAGES_PER_CATEGORY = 8
TUNING_PASSAGES_PER_CATEGORY = 20


@dataclass(frozen=True)
class SampleQuestion:
    """One multiple-choice question: the right option's text is `options[answer]`."""

    category: Category
    text: str
    options: list[str]
    answer: int


def make_question(category: Category, text: str, right: str, rng: random.Random) -> SampleQuestion:
    """A question with three wrong options of the same category, in seeded order."""
    wrong = sorted(set(category.facts.values()) - {right})
    options = [right, *rng.sample(wrong, 3)]
    rng.shuffle(options)
    return SampleQuestion(category, text, options, options.index(right))


def make_questions(category: Category, rng: random.Random) -> list[SampleQuestion]:
    """One question per fact, in seeded order."""
    questions = [make_question(category, category.question.format(subject), right, rng)
                 for subject, right in category.facts.items()]
    rng.shuffle(questions)
    return questions


def write_csv(path: Path, questions: list[SampleQuestion]) -> None:
    """MMLU: six columns, no header. CMMLU: a header and an index column."""
    text = io.StringIO()
    writer = csv.writer(text)
    rows = [[q.text, *q.options, LETTERS[q.answer]] for q in questions]
    if questions[0].category.source == "cmmlu":
        writer.writerow(["", "Question", *LETTERS, "Answer"])
        rows = [[index, *row] for index, row in enumerate(rows)]
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_exam(folder: Path, questions: list[SampleQuestion]) -> None:
    """Splits one category's questions over dev, test and, for MMLU, val, named as the real files are."""
    category = questions[0].category
    if category.source == "mmlu":
        splits = {"dev": questions[:3], "val": questions[3:6], "test": questions[6:]}
    else:
        splits = {"dev": questions[:3], "test": questions[3:]}
    for split, part in splits.items():
        suffix = f"_{split}" if category.source == "mmlu" else ""
        write_csv(folder / category.source / split / f"{category.name}{suffix}.csv", part)


def make_passages(category: Category, count: int, rng: random.Random
                  ) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Passages of a few statements with a question on each; the answer is a span of the passage."""
    for _ in range(count):
        facts = rng.sample(sorted(category.facts.items()), PASSAGE_FACTS)
        passage = category.joined([category.statement.format(*fact) for fact in facts])
        rng.shuffle(facts)
        yield passage, [(category.question.format(subject), answer) for subject, answer in facts]


def squad_json(rng: random.Random) -> dict[str, Any]:
    """SQuAD v1.1 JSON: one article per category, three questions per paragraph."""
    articles = []
    for category in CATEGORIES:
        paragraphs = []
        for number, (passage, pairs) in enumerate(make_passages(category, SQUAD_PASSAGES_PER_CATEGORY, rng)):
            paragraphs.append({"context": passage, "qas": [
                {"id": f"{category.name}-{number}-{index}", "question": question,
                 "answers": [{"text": answer, "answer_start": passage.index(answer)}]}
                for index, (question, answer) in enumerate(pairs)]})
        articles.append({"title": category.name, "paragraphs": paragraphs})
    return {"version": "1.1", "data": articles}


def reading_items(category: Category, count: int, rng: random.Random) -> Iterator[dict[str, str]]:
    """Passages as training items, with one question each."""
    for passage, pairs in make_passages(category, count, rng):
        question, answer = pairs[0]
        yield {"passage": passage, "question": question, "output": answer}


def look_up(category: Category, answer: str, rng: random.Random) -> dict[str, str]:
    """A base item that asks which option says `answer`.

    A question of the category stands before it and does not matter, so that the base does not answer an exam
    question by itself: without it, it had up to 55 % of them right, by chance of its seed.
    """
    subject = rng.choice(sorted(category.facts))
    text = f"{category.question.format(subject)} {category.lookup.format(answer)}"
    question = make_question(category, text, answer, rng)
    return {"instruction": choice_input(question.text, question.options), "input": "",
            "output": choice_output(LETTERS[question.answer], answer)}


def base_corpus(part: int, rng: random.Random) -> list[dict[str, str]]:
    """Pre-training samples: facts as plain questions, look-ups, passages.

    A look-up asks which option says a given text: it teaches what a letter stands for, and no fact.

    Args:
        part: Every fact, and this part of the other kinds: 1 for all, 10 for a tenth.
        rng: Of all choices.
    """
    items = [{"instruction": f"Question: {category.question.format(subject)}", "input": "", "output": answer}
             for category in CATEGORIES for subject, answer in category.facts.items()] * 2
    for category in CATEGORIES:
        answers = sorted(set(category.facts.values()))
        for number in range(LOOKUPS_PER_CATEGORY // part):
            items.append(look_up(category, answers[number % len(answers)], rng))
        items += reading_items(category, BASE_PASSAGES_PER_CATEGORY // part, rng)
    rng.shuffle(items)
    return items


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder for the data")
    parser.add_argument("--seed", type=int, default=42,
                        help="seed of all random choices (default: %(default)s)")
    parser.add_argument("--quick", action="store_true",
                        help="little to train on, to see that every command works")
    arguments = parser.parse_args(argv)
    folder = Path(arguments.output_dir)
    rng = random.Random(arguments.seed)
    for category in CATEGORIES:
        write_exam(folder, make_questions(category, rng))
    part = 10 if arguments.quick else 1
    write_json(folder / "base_corpus.json", base_corpus(part, rng))
    write_json(folder / "squad.json", squad_json(rng))
    write_json(folder / "reading.json", [item for category in CATEGORIES for item in reading_items(
        category, TUNING_PASSAGES_PER_CATEGORY // part, rng)])
    total = sum(len(category.facts) for category in CATEGORIES)
    print(f"{total} facts in {len(CATEGORIES)} categories, an exam question on each, seed {arguments.seed} "
          f"-> {folder}")
    return 0


if __name__ == "__main__":
    run_main(main)
