"""Csv of human and AI texts -> training, validation and test json that share nothing but the task.

    python preprocess/detection_csv2json.py --csv train_v3_drcat_01.csv train_essays.csv --output_dir data

Writes train_detection.json, valid_detection.json and test_detection.json, each with a manifest, and
removed.jsonl with every row that is in none of them and why. Near-duplicates are on one side always;
--hold_out keeps prompts, generators or both apart as well.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from preprocess.detection import cleaning, csv_rows, report, splits, surface
from preprocess.detection.cleaning import Collection, Rules
from research_internlm.data.chat_template import PROMPT_VERSION
from research_internlm.data.detection import (
    CLASS_NAMES,
    DETECTION_WORDING,
    LANGUAGES,
    detection_item,
    language_of,
    verdict_position,
)
from research_internlm.data.item_files import write_items
from research_internlm.data.manifest import write_data_manifest
from research_internlm.data.tokens import load_tokenizer
from research_internlm.shared import files
from research_internlm.shared.arguments import number, whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.result_set import ResultSet, result_set

REMOVED = "removed.jsonl"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--csv", type=Path, nargs="+", required=True, metavar="F", help="csv files with the columns text, "
        "label (or generated) and, where known, source and prompt_name")
    add("--output_dir", type=Path, required=True, help="folder for the json files and removed.jsonl")
    add("--hold_out", choices=splits.HOLD_OUTS, default="random", help="what validation and test share with "
        "training: random: prompts and generators; prompts, generators: not these; both: neither (default: "
        "%(default)s)")
    add("--valid_share", type=_share, default=0.1, metavar="X", help="default: %(default)s")
    add("--test_share", type=_share, default=0.1, metavar="X", help="default: %(default)s")
    add("--sample", type=_share, default=1.0, metavar="X", help="use this share of the clean texts")
    add("--class_weights", type=number(0), nargs=2, default=(1.0, 1.0), metavar=("HUMAN", "AI"),
        help="how often a training text of each class is written; 1.5 writes every other one twice")
    add("--min_words", type=whole(0), default=Rules.min_words, metavar="N", help="remove texts of fewer "
        "words; a Chinese character is a word (default: %(default)s)")
    add("--jaccard", type=_share, default=Rules.least_jaccard, metavar="X", help="near-duplicates share "
        "this much of their three-word sequences (default: %(default)s)")
    add("--keep", nargs="+", choices=cleaning.RULES, default=(), metavar="RULE", help="do not remove "
        f"{', '.join(cleaning.RULES)}")
    add("--missing", choices=("drop", "error"), default="drop", help="rows without text or label: list "
        "them, or stop (default: %(default)s)")
    add("--keep_surface", action="store_true", help="keep blanks at the ends, no-break spaces, zero-width "
        "characters and wrong encodings, which tell the class without reading")
    add("--model_file", metavar="F.model", help="check that this tokenizer decides the verdict at one token; "
        "the converter checks it in any case")
    add("--seed", type=int, default=42, help="of all draws (default: %(default)s)")
    add("--num_workers", type=whole(1), default=2, metavar="N", help="processes (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace existing outputs")
    return parser.parse_args(argv)


def _share(text: str) -> float:
    value = number(0)(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 and up to 1")
    return value


def output_path(folder: Path, side: str) -> Path:
    """`train_detection.json` and so on."""
    return folder / f"{side}_detection.json"


def read(arguments: argparse.Namespace, folder: Path) -> tuple[list[csv_rows.CsvFile], Collection]:
    """Reads and cleans all files.

    Args:
        arguments: The command line.
        folder: For what lies on the disk meanwhile.

    Raises:
        ToolkitError: A file is not what it should be, or too little is left.
    """
    found_twice = [name for name, count in Counter(path.name for path in arguments.csv).items() if count > 1]
    if found_twice:
        raise ToolkitError(f"--csv names two files {found_twice[0]}; rows are known by the file's name and "
                           "their number: rename one")
    csv_files = [csv_rows.open_csv(path) for path in arguments.csv]
    rules = Rules(arguments.min_words, arguments.keep_surface, frozenset(arguments.keep), arguments.jaccard)
    rows = itertools.chain.from_iterable(file.read() for file in csv_files)
    rows = tqdm(rows, desc="rows", unit="row", disable=None)
    found = cleaning.collect(rows, rules, folder, arguments.num_workers)
    if found.missing and arguments.missing == "error":
        raise ToolkitError(f"{len(found.missing)} rows lack a text or a label: "
                           f"{', '.join(id_ for id_, _ in found.missing[:10])}; correct them, or pass "
                           "--missing drop")
    cleaning.apply_rules(found, rules)
    left = {name: np.count_nonzero((found.labels == label) & (found.removed == ""))
            for label, name in enumerate(CLASS_NAMES)}
    if not all(left.values()):
        lacking = next(name for name, count in left.items() if not count)
        raise ToolkitError(f"no {lacking} text is left of {len(found) + len(found.missing)} rows, and a "
                           "detector needs both classes; add a csv that has them, or loosen the rules "
                           "(--min_words, --keep)")
    return csv_files, found


def make_split(found: Collection, clean: np.ndarray, arguments: argparse.Namespace) -> splits.Split:
    """Splits the clean texts."""
    shares = {"valid": arguments.valid_share, "test": arguments.test_share}
    if sum(shares.values()) >= 1:
        raise ToolkitError(f"--valid_share and --test_share leave {1 - sum(shares.values()):.2f} of the "
                           "texts for training; lower them")
    texts = splits.Texts(found.labels[clean], found.sources[clean], found.prompts[clean],
                         found.clusters[clean])
    prompts = found.names["prompts"]
    return splits.split(texts, arguments.hold_out, shares, arguments.sample, arguments.seed,
                        prompts.index("") if "" in prompts else None, found.names)


def items_of(found: Collection, indices: np.ndarray, weights: tuple[float, float], seed: int
             ) -> Iterator[dict[str, Any]]:
    """The items of a part; those of a class with a weight other than 1 are repeated or left out by chance."""
    generator = random.Random(seed)
    for index in indices.tolist():
        text, label = found.text_of(index), int(found.labels[index])
        item = detection_item(
            text, label, language_of(text), id=found.id_of(index),
            source=found.names["sources"][found.sources[index]],
            prompt=found.names["prompts"][found.prompts[index]], words=int(found.words[index]),
            cluster=found.id_of(int(found.clusters[index])), marks=surface.names_of(int(found.marks[index])))
        times, rest = divmod(weights[label], 1)
        yield from itertools.repeat(item, int(times) + (generator.random() < rest))


def write_parts(found: Collection, clean: np.ndarray, split: splits.Split, arguments: argparse.Namespace,
                folder: Path) -> dict[str, int]:
    """Writes the three files and removed.jsonl; the items of each part."""
    written = Counter()

    def counted(side: str) -> Iterator[dict[str, Any]]:
        weights = tuple(arguments.class_weights) if side == "train" else (1.0, 1.0)
        for item in items_of(found, clean[split.sides == side], weights, arguments.seed):
            written[side] += 1
            yield item

    for side in splits.SIDES:
        write_items(output_path(folder, side), counted(side))
    with open(folder / REMOVED, "w", encoding="utf-8") as file:
        file.writelines(report.reasons(found, clean, split))
    return dict(written)


def facts_of(csv_files: list[csv_rows.CsvFile], found: Collection, clean: np.ndarray, split: splits.Split,
             arguments: argparse.Namespace) -> dict[str, Any]:
    """What the manifests of all three parts say."""
    return {
        "inputs": {path.name: files.sha256_of(path) for path in arguments.csv},
        "evaluation_kind": "held_out", "prompt_version": PROMPT_VERSION, "wordings": [DETECTION_WORDING],
        "counts": report.counts_of(found, clean, split), "files": report.file_facts(csv_files),
        "hold_out": arguments.hold_out,
        "held_out": {kind: {side: [found.names["sources" if kind == "generators" else kind][place]
                                   for place in places] for side, places in sides.items()}
                     for kind, sides in split.groups.items()},
        "sample": arguments.sample, "class_weights": list(arguments.class_weights),
        "min_words": arguments.min_words, "jaccard": arguments.jaccard,
        "kept_rules": list(arguments.keep), "keep_surface": arguments.keep_surface,
        "seed": arguments.seed, "surface": report.surface_facts(found),
        "near_duplicates": cleaning.cluster_facts(found)}


def make(arguments: argparse.Namespace, results: ResultSet) -> None:
    """Reads, cleans and splits the texts, writes the files, and prints the summary."""
    spools = results.folder / "spools"  # not published
    spools.mkdir()
    csv_files, found = read(arguments, spools)
    clean = np.flatnonzero(found.removed == "")
    split = make_split(found, clean, arguments)
    written = write_parts(found, clean, split, arguments, results.folder)
    facts = facts_of(csv_files, found, clean, split, arguments)
    parts = {side: report.contents(found, clean, split, side) for side in splits.SIDES}
    staged = {side: output_path(results.folder, side) for side in splits.SIDES}
    together = {path.name: files.sha256_of(path) for path in staged.values()}
    for side, path in staged.items():
        write_data_manifest(path, tool="preprocess/detection_csv2json.py", part=side, together=together,
                            items=written[side], **parts[side], **facts)
    results.publish(REMOVED, *together)
    print("\n".join(report.lines(facts, parts, str(arguments.output_dir / REMOVED))))


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    if arguments.model_file:
        processor = load_tokenizer(arguments.model_file)
        for language in LANGUAGES:
            verdict_position(language, processor)
    parts = [output_path(arguments.output_dir, side) for side in splits.SIDES]
    finished = {path: files.manifest_path(path) for path in parts}
    finished[arguments.output_dir / REMOVED] = files.manifest_path(parts[0])
    inputs = [files.require_file(path, "--csv") for path in arguments.csv]
    with result_set(parts[0], arguments.overwrite, finished, inputs) as results:
        make(arguments, results)
    return 0


if __name__ == "__main__":
    run_main(main)
