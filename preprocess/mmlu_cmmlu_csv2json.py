"""MMLU and CMMLU csv -> one json of multiple-choice items in alpaca form.

    python preprocess/mmlu_cmmlu_csv2json.py --mmlu_dir mmlu --cmmlu_dir cmmlu --output alpaca.json

Default: every row becomes one item, every cell unchanged (27,775 items for the full sets), and beside the
three alpaca texts every item holds the question they were rendered from. `--official_compat` rebuilds the
official converter's file instead, byte for byte: with its losses (27,604) and its three keys only.

Order, as in the report's script: CMMLU's categories by name, then MMLU's; within one dev, test, val, then
shuffled by one generator. A category is (source, subject): some subjects occur in both sets.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from preprocess.exam import exam_csv, official_compat
from preprocess.exam.exam_csv import ExamFile
from research_internlm.data.chat_template import PROMPT_VERSION
from research_internlm.data.choice import (
    ALPACA_KEYS,
    EXAM_WORDING,
    LETTERS,
    ChoiceQuestion,
    choice_instruction,
)
from research_internlm.data.item_files import write_items
from research_internlm.data.manifest import write_data_manifest
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.result_set import ResultSet, result_set


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Convert MMLU and CMMLU csv files to one alpaca json. Either folder may be left out; "
                    "absent splits are named in the summary. A manifest is written beside the output.")
    parser.add_argument("--mmlu_dir", type=Path, help="folder with MMLU's dev/, test/ and val/")
    parser.add_argument("--cmmlu_dir", type=Path, help="folder with CMMLU's dev/ and test/")
    parser.add_argument("--output", type=Path, required=True, help="json file to write")
    parser.add_argument("--official_compat", action="store_true",
                        help="reproduce the official converter's losses: the first row of each MMLU file, "
                             "pandas' nan")
    parser.add_argument("--seed", type=whole(0), default=42,
                        help="of the shuffle within each category (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return parser.parse_args(argv)


def read_questions(exam: ExamFile) -> list[ChoiceQuestion]:
    """The questions of one file.

    Args:
        exam: A verified file.

    Returns:
        One question per row, in order.
    """
    instruction = choice_instruction(exam.domain)
    return [ChoiceQuestion(f"{exam.name}:{row.row}", instruction, row.question, row.options, row.answer,
                           exam.source, exam.subject, exam.origin_of(row)) for row in exam.rows]


def find_duplicates(exam_files: list[ExamFile]) -> dict[str, dict[str, Any]]:
    """Questions that occur more than once, with the same key and with another.

    Args:
        exam_files: All files, of both sources.

    Returns:
        `exact`: same question, options (in order) and key. `conflicting`: same question and same four
        options in any order, but another option is the right one. Each with the number of surplus
        rows, and the groups of `file:row` names.
    """
    exact: dict[tuple, list[str]] = defaultdict(list)
    keys: dict[tuple, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for exam in exam_files:
        for row in exam.rows:
            name = f"{exam.name}:{row.row}"
            exact[row.question, row.options, row.answer].append(name)
            right = row.options[LETTERS.index(row.answer)]
            keys[row.question, tuple(sorted(row.options))][right].append(name)
    exact_groups = [names for names in exact.values() if len(names) > 1]
    conflicts = [[name for names in by_key.values() for name in names]
                 for by_key in keys.values() if len(by_key) > 1]
    return {
        kind: {"count": sum(len(names) - 1 for names in groups), "groups": groups}
        for kind, groups in (("exact", exact_groups), ("conflicting", conflicts))
    }


def find_incomplete(exam_files: list[ExamFile]) -> dict[str, list[str]]:
    """Categories that lack a split other categories of their source have: {category: missing splits}."""
    present: dict[str, set[str]] = defaultdict(set)
    splits: dict[str, set[str]] = defaultdict(set)
    for exam in exam_files:
        present[f"{exam.source}/{exam.subject}"].add(exam.split)
        splits[exam.source].add(exam.split)
    missing = {category: sorted(splits[category.split("/")[0]] - found)
               for category, found in present.items()}
    return {category: lacking for category, lacking in sorted(missing.items()) if lacking}


def convert(exam_files: list[ExamFile], compat: bool, seed: int) -> tuple[list[dict], dict[str, Any]]:
    """Turns all files into shuffled items.

    Args:
        exam_files: All files, of both sources.
        compat: Reproduce the official converter.
        seed: Of the shuffle.

    Returns:
        The items; and what happened on the way: `dropped` and, in compat mode, the losses per file.
    """
    generator = random.Random(seed)
    categories: dict[tuple[str, str], list[dict]] = defaultdict(list)
    dropped: list[dict[str, Any]] = []
    nan_cells: dict[str, int] = {}
    # the sources sort as the report reads them, cmmlu before mmlu, and so do the splits: dev, test, val
    ordered = sorted(exam_files, key=lambda exam: (exam.source, exam.subject, exam.split))
    for exam in tqdm(ordered, desc="files", unit="file", disable=None):
        if compat:
            converted = official_compat.convert_file(exam)
            dropped += converted.dropped
            if converted.nan_cells:
                nan_cells[exam.name] = converted.nan_cells
        questions = converted.questions if compat else read_questions(exam)
        made = [question.item(completed=False) for question in questions]
        categories[exam.source, exam.subject] += [
            {key: item[key] for key in ALPACA_KEYS} if compat else item for item in made]
    result: list[dict] = []
    for items in categories.values():
        generator.shuffle(items)
        result += items
    facts: dict[str, Any] = {"dropped": dropped}
    if compat:
        lost = Counter(row["file"] for row in dropped)
        facts |= {"rows_lost_per_file": dict(lost), "nan_cells_per_file": nan_cells}
    return result, facts


def read_sources(arguments: argparse.Namespace
                 ) -> tuple[list[ExamFile], dict[str, list[str]], dict[str, list[str]]]:
    """Reads the folders that were given: the files, and per source the absent splits and unread files."""
    folders = {"cmmlu": arguments.cmmlu_dir, "mmlu": arguments.mmlu_dir}
    if not any(folders.values()):
        raise ToolkitError("neither --mmlu_dir nor --cmmlu_dir was given; name at least one folder")
    exam_files: list[ExamFile] = []
    absent: dict[str, list[str]] = {}
    left_out: dict[str, list[str]] = {}
    for source, folder in folders.items():
        if folder is not None:
            found, absent[source], left_out[source] = exam_csv.read_folder(folder, source)
            exam_files += found
    if arguments.official_compat and (other := [exam.name for exam in exam_files
                                                if exam.form != exam_csv.ORIGINAL]):
        raise ToolkitError(f"--official_compat rebuilds the official items from the original csv files, but "
                           f"{', '.join(other[:5])} {'are' if len(other) > 1 else 'is'} of another form")
    return exam_files, absent, left_out


def make(arguments: argparse.Namespace, results: ResultSet) -> None:
    """Converts, writes the json and its manifest, and prints the summary."""
    exam_files, absent, left_out = read_sources(arguments)
    items, facts = convert(exam_files, arguments.official_compat, arguments.seed)
    rows_in = sum(len(exam.rows) for exam in exam_files)
    duplicates = find_duplicates(exam_files)
    incomplete = find_incomplete(exam_files)
    rows_per_category: Counter[str] = Counter()
    for exam in exam_files:
        rows_per_category[f"{exam.source}/{exam.subject}"] += len(exam.rows)
    counts = {"in": rows_in, "out": len(items), "dropped": len(facts["dropped"])}
    staged = results.folder / arguments.output.name
    write_items(staged, items)
    write_data_manifest(
        staged, tool="preprocess/mmlu_cmmlu_csv2json.py", official_compat=arguments.official_compat,
        seed=arguments.seed, prompt_version=PROMPT_VERSION, wordings=[EXAM_WORDING],
        counts=counts,
        order="cmmlu then mmlu, categories by name; each: dev, test, val, then shuffled",
        absent_splits=absent, files_not_read=left_out,
        other_forms={exam.name: exam.form for exam in exam_files if exam.form != exam_csv.ORIGINAL},
        explanations_left_out={exam.name: exam.explanations for exam in exam_files if exam.explanations},
        categories_missing_a_split=incomplete, categories=len(rows_per_category),
        rows_per_file={exam.name: len(exam.rows) for exam in exam_files},
        rows_per_category=rows_per_category,
        **facts, duplicates=duplicates,
        inputs={exam.name: exam.sha256 for exam in exam_files})
    results.publish(arguments.output.name)
    for source, splits in absent.items():
        if splits:
            print(f"{source}: no {', '.join(f'{split}/' for split in splits)} folder")
    for source, names in left_out.items():
        if names:
            print(f"{source}: {len(names)} file(s) not read (listed in the manifest): {', '.join(names[:5])}"
                  f"{', ...' if len(names) > 5 else ''}")
    if incomplete:
        print(f"{len(incomplete)} categories lack a split that others have (listed in the manifest)")
    print(f"{arguments.output}: {counts['in']} rows in = {counts['out']} items + "
          f"{counts['dropped']} dropped, {len(rows_per_category)} categories; duplicates: "
          f"{duplicates['exact']['count']} exact, "
          f"{len(duplicates['conflicting']['groups'])} questions with conflicting keys")
    if arguments.official_compat:
        print(f"official_compat: {sum(facts['nan_cells_per_file'].values())} option cells became nan")


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    with result_set(arguments.output, arguments.overwrite) as results:
        make(arguments, results)
    return 0


if __name__ == "__main__":
    run_main(main)
