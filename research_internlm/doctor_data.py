"""Entry point: what is in a MindRecord, and what is wrong with it; repairs it into a new file.

    python research_internlm/doctor_data.py train.mindrecord --model_file tokenizer.model --show 5
    python research_internlm/doctor_data.py old.mindrecord --model_file tokenizer.model --fix new.mindrecord

Takes files of preprocess/alpaca_data_preprocess_v1.py and of upstream's converter, which have no manifest:
the repaired one has. Checks the .db beside it, the manifest, length and type of every row, that labels are
-100 or the id at their place, that every sample begins with <s> and ends in a supervised end token, ids
outside the vocabulary and repeated samples. Exit code 1 where there is a problem and no --fix.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from preprocess.mindrecord.inspection import Rule, inspect, lines, marked, parts_of, read_rows
from preprocess.mindrecord.repair import Repair, manifest_of, mended_rows, write_repaired
from preprocess.mindrecord.writer import results_of
from research_internlm.data.manifest import MindRecordManifest, read_mindrecord_manifest
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.recipes.data_check import check_mindrecord, require_unchanged
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import manifest_path, sha256_of, write_manifest
from research_internlm.shared.process_role import leave_job_variables_out
from research_internlm.shared.result_set import result_set
from research_internlm.shared.schema import to_json


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("file", type=Path, metavar="F.mindrecord", help="the data set, or the common name of its partitions")
    add("--model_file", required=True, metavar="F.model", help="tokenizer.model it was made with")
    add("--show", type=whole(0), default=3, metavar="N", help="samples drawn at random and printed, the "
        "supervised part between ⟦ and ⟧ (default: %(default)s)")
    add("--seed", type=whole(0), default=0, help="of the draw (default: %(default)s)")
    add("--fix", type=Path, metavar="OUT.mindrecord", help="write what is right or can be mended into a new "
        "data set; the rest is listed in its manifest")
    add("--overwrite", action="store_true", help="replace an existing OUT")
    return parser.parse_args(argv)


def manifest_problems(path: Path, manifest: MindRecordManifest | None, model_file: str) -> list[str]:
    """What the manifest says that is not so, or that it is missing.

    Raises:
        ToolkitError: The files are not those it was written for; MindSpore can crash on damaged ones.
    """
    if manifest is None:
        return [f"no manifest {manifest_path(path).name}: training refuses the file; --fix writes one"]
    require_unchanged(path, "the data set")
    problems = []
    try:
        check_mindrecord(path, manifest.record_length, "the data set", "its own manifest")
    except ToolkitError as error:
        problems.append(str(error))
    if manifest.tokenizer_sha256 != sha256_of(model_file):
        problems.append(f"the data set was made with another tokenizer than {model_file} (sha256 in its "
                        "manifest)")
    return problems


def fix(arguments: argparse.Namespace, parts: list[Path], manifest: MindRecordManifest | None, rule: Rule,
        length: int, packed: bool) -> None:
    """Writes the repaired data set and says what became of the samples."""
    output = arguments.fix
    inputs = [file for part in parts for file in (part, part.with_name(part.name + ".db"))]
    with result_set(output, arguments.overwrite, results_of(output, 1), inputs) as results:
        repair, staged = Repair(), results.folder / output.name
        rows = mended_rows(read_rows(parts), rule, length, repair)
        written = write_repaired(staged, rows, repair)
        facts = manifest_of(written, parts, manifest, rule, arguments.model_file, length, packed, repair)
        write_manifest(staged, **to_json(facts))
        results.publish(*(part.file for part in written), manifest_path(output).name)
    print(f"{repair.found:,} samples in = {facts.counts.samples:,} out ({repair.mended:,} mended) + "
          f"{len(repair.left_out):,} left out, each listed in {manifest_path(output).name} -> {output}")


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    leave_job_variables_out()
    processor = load_tokenizer(arguments.model_file)
    rule = Rule.of(processor, special_tokens(processor))
    manifest = read_mindrecord_manifest(arguments.file)
    parts = parts_of(arguments.file, manifest)
    problems = manifest_problems(arguments.file, manifest, arguments.model_file)
    found, drawn = inspect(read_rows(parts), rule, arguments.show, arguments.seed)
    for number, sample in drawn:
        print(f"--- row {number}\n{marked(sample, processor, rule.special)}")
    print("\n".join([*lines(found), *(f"problem: {text}" for text in problems)]))
    if not arguments.fix:
        return 1 if problems or found.problems else 0
    fix(arguments, parts, manifest, rule, found.length, found.packed)
    return 0


if __name__ == "__main__":
    run_main(main)
