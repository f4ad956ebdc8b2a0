"""Alpaca json -> training, validation and test json, each question in several orders of its options.

    python preprocess/data_preprocess.py --input alpaca.json --output_dir data

Writes train_alpaca_format.json, valid_alpaca_format.json and test_alpaca_format.json, each with a manifest
that says where the evaluation questions come from (`evaluation_kind`). Training is written ordering by
ordering, unshuffled, as the report's file is; the data loader shuffles.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from preprocess.exam import questions as question_reader
from preprocess.exam import splits
from preprocess.exam.orderings import ORDERS, choose_orders, depends_on_order
from research_internlm.data.chat_template import PROMPT_VERSION
from research_internlm.data.choice import EXAM_WORDING, ChoiceQuestion
from research_internlm.data.item_files import stream_items, write_items
from research_internlm.data.manifest import require_own_manifest, write_data_manifest
from research_internlm.shared import files
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.result_set import ResultSet, result_set

_NAMES = {part: f"{part}_alpaca_format.json" for part in ("train", "valid", "test")}  # the report's


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Show each question in several orders of its options and split the result into "
                    "training, validation and test. A manifest is written beside each output.")
    parser.add_argument("--input", type=Path, required=True, help="json of mmlu_cmmlu_csv2json.py, "
                        "or JSON Lines of such items")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the three json files")
    parser.add_argument("--orderings", type=whole(1, len(ORDERS)), default=6,
                        help="orders per question, the original one included, 1 to 24 (default: %(default)s)")
    parser.add_argument("--split", choices=tuple(splits.EVALUATION_KIND), default="sixth_ordering",
                        help="sixth_ordering: evaluate on training questions in their last order (the "
                             "report's; it measures memory); held_out: on questions training never shows "
                             "(default: %(default)s)")
    parser.add_argument("--valid_per_category", type=whole(0), default=20,
                        help="validation questions per category (default: %(default)s)")
    parser.add_argument("--test_per_category", type=whole(0), default=20,
                        help="test questions per category (default: %(default)s)")
    parser.add_argument("--seed", type=whole(0), default=42,
                        help="of the orders and the choice of questions (default: %(default)s)")
    parser.add_argument("--ambiguous", choices=("error", "drop"), default="error",
                        help="what to do with items whose text can be read in no way or in several: stop, "
                             "or drop them and list them in the manifests (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    return parser.parse_args(argv)


def read_questions(path: Path, ambiguous: str) -> tuple[list[ChoiceQuestion], list[dict[str, Any]]]:
    """Reads the input file.

    Args:
        path: The alpaca json.
        ambiguous: `error` or `drop`.

    Returns:
        The questions, and the dropped items with index and reason.

    Raises:
        ToolkitError: An unreadable item with `error`, or nothing readable at all.
    """
    items = list(stream_items(path))
    questions, unreadable = question_reader.read_items(items, str(path))
    if unreadable and (ambiguous == "error" or not questions):
        listed = "; ".join(f"item {entry['index']}: {entry['reason']}" for entry in unreadable)
        raise ToolkitError(
            f"{path}: {len(unreadable)} of {len(items)} items cannot be read for certain: {listed}; make the "
            "file with preprocess/mmlu_cmmlu_csv2json.py (structured fields), or pass --ambiguous drop")
    return questions, unreadable


def assign_orders(
    questions: list[ChoiceQuestion], count: int, generator: random.Random
) -> tuple[list[list[tuple[int, ...]]], dict[str, Any]]:
    """Chooses the orders of every question.

    Args:
        questions: All questions.
        count: Orders per question.
        generator: Draws them.

    Returns:
        For each question its orders; and, for the manifest, the questions that keep their own order
        because an option points at another, and those with fewer distinct orders than asked for.
    """
    orders, fixed, repeated = [], [], []
    for question in tqdm(questions, desc="orderings", unit="question", disable=None):
        if depends_on_order(question.text, question.options):
            fixed.append(question.id)
            orders.append([ORDERS[0]] * count)
            continue
        orders.append(choose_orders(question.options, count, generator))
        if len(set(orders[-1])) < count:
            repeated.append(question.id)
    return orders, {
        "kept_in_original_order": {"count": len(fixed), "ids": fixed},
        "fewer_distinct_orders": {"count": len(repeated), "ids": repeated},
    }


def make_split(
    questions: list[ChoiceQuestion], orders: list[list[tuple[int, ...]]], arguments: argparse.Namespace,
    generator: random.Random,
) -> splits.Split:
    """Runs the chosen split.

    Raises:
        ToolkitError: Nothing would be left to train on.
    """
    if arguments.split == "sixth_ordering" and arguments.orderings < 2:
        raise ToolkitError("--split sixth_ordering keeps the last ordering for validation and test, so "
                           "--orderings must be 2 or more; pass more, or --split held_out")
    make = splits.held_out if arguments.split == "held_out" else splits.sixth_ordering
    split = make(questions, orders, arguments.valid_per_category, arguments.test_per_category, generator)
    if not split.train:
        raise ToolkitError(f"{arguments.input} holds {len(questions)} questions and all of them would be set "
                           "aside; lower --valid_per_category and --test_per_category")
    return split


def count_categories(questions: list[ChoiceQuestion], split: splits.Split) -> dict[str, dict[str, int]]:
    """Questions, and items of each file, per category."""
    names = {"/".join(question.category): Counter() for question in questions}
    for question in questions:
        names["/".join(question.category)]["questions"] += 1
    for part in ("train", "valid", "test"):
        for shown in getattr(split, part):
            names["/".join(shown.question.category)][part] += 1
    return {name: {key: counts[key] for key in ("questions", "train", "valid", "test")}
            for name, counts in names.items()}


def write_outputs(results: ResultSet, split: splits.Split, facts: dict[str, Any]) -> None:
    """Writes the three files and their manifests, each of which names all three with their sha256."""
    staged = {part: results.folder / name for part, name in _NAMES.items()}
    for part, path in tqdm(staged.items(), desc="writing", unit="file", disable=None):
        write_items(path, (shown.item() for shown in getattr(split, part)))
    together = {path.name: files.sha256_of(path) for path in staged.values()}
    for part, path in staged.items():
        write_data_manifest(path, tool="preprocess/data_preprocess.py", part=part, together=together,
                            items=len(getattr(split, part)), **facts)
    results.publish(*together)


def make(arguments: argparse.Namespace, results: ResultSet) -> None:
    """Splits the questions, writes the files, and prints the summary."""
    require_own_manifest(arguments.input)
    questions, dropped = read_questions(arguments.input, arguments.ambiguous)
    generator = random.Random(arguments.seed)
    orders, order_facts = assign_orders(questions, arguments.orderings, generator)
    split = make_split(questions, orders, arguments, generator)
    per_category = count_categories(questions, split)
    wanted = {"valid": arguments.valid_per_category, "test": arguments.test_per_category}
    short = {name: counts for name, counts in per_category.items()
             if any(counts[part] < count for part, count in wanted.items())}
    counts = {
        "items_in": len(questions) + len(dropped), "dropped": len(dropped), "questions": len(questions),
        "train": len(split.train), "valid": len(split.valid), "test": len(split.test), "unused": split.unused,
    }
    kind = splits.EVALUATION_KIND[arguments.split]
    write_outputs(results, split, {
        "evaluation_kind": kind, "split": arguments.split, "orderings": arguments.orderings,
        "seed": arguments.seed, "prompt_version": PROMPT_VERSION, "wordings": [EXAM_WORDING],
        "inputs": {arguments.input.name: files.sha256_of(arguments.input)}, "counts": counts,
        "dropped": dropped, "per_category": per_category, "categories_short_of_questions": short,
        **order_facts})
    print(f"{arguments.output_dir}: {counts['train']} train, {counts['valid']} valid, {counts['test']} test "
          f"items ({kind}) from {counts['questions']} questions in {len(per_category)} categories; "
          f"{counts['unused']} items of the last ordering unused, {counts['dropped']} items dropped")
    kept, few = (order_facts[key]["count"] for key in ("kept_in_original_order", "fewer_distinct_orders"))
    print(f"{kept} questions keep their own order (an option points at others); {few} have fewer distinct "
          "orders than asked for")
    if short:
        print(f"{len(short)} categories have fewer questions than asked for (listed in the manifests)")


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    outputs = [arguments.output_dir / name for name in _NAMES.values()]
    with result_set(outputs[0], arguments.overwrite, {path: files.manifest_path(path) for path in outputs},
                    [arguments.input]) as results:
        make(arguments, results)
    return 0


if __name__ == "__main__":
    run_main(main)
