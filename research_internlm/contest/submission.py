"""Entry point: the hand-in, one reproducible zip named after the team, or everything that is wrong with it.

    bash scripts/package_submission.sh output/run1 --team NAME

Before anything is packed: all parts are there and complete; report, config, logs and checkpoints agree;
five checkpoints are evenly spaced over the run; no file holds a credential. Layout, in the manual's order:

    1_report/    report.md and its figures
    2_training/  resolved_config.yaml, run.json, all worker logs
    3_source/mindformers/research/internlm/   this toolkit's source
    4_squad/     results, every prediction, the evaluation's log
    sha256.txt   of all files above
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from research_internlm.contest import logs, report, schedule, secrets_scan
from research_internlm.contest.run_folder import LINKS, RunFolder, disagreements
from research_internlm.errors import ToolkitError, run_main
from research_internlm.files import publish, read_manifest, require_absent, sha256_of, staging

Parts = dict[str, Path]  # name inside the zip -> file
SOURCE_PREFIX = "3_source/mindformers/research/internlm"
_SOURCE = ("research_internlm", "preprocess", "scripts", "yaml", "setup.cfg", "pyproject.toml", "LICENSE",
           "README.md", "README_zh.md", "CHANGELOG.md")
_TEAM = re.compile(r"[\w.-]+")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first date: the same inputs give the same bytes


def project_root() -> Path:
    """Folder the source package is taken from."""
    return Path(__file__).resolve().parents[2]


def source_parts(root: Path) -> Parts:
    """The source package: names below mindformers/research/internlm."""
    found: Parts = {}
    for name in _SOURCE:
        top = root / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("."):
                found[f"{SOURCE_PREFIX}/{file.relative_to(root).as_posix()}"] = file
    return found


def training_parts(run: RunFolder) -> Parts:
    """Config, run facts and every log file of every worker, restarts included."""
    files = [run.path / "resolved_config.yaml", run.path / "run.json",
             *sorted(run.path.rglob("scheduler.log")),
             *(file for log in run.logs.values() for file in log.files)]
    return {f"2_training/{file.relative_to(run.path).as_posix()}": file for file in files}


def report_parts(run: RunFolder) -> Parts:
    """The report and the figures it shows."""
    figures = sorted((run.path / logs.OUTPUT_FOLDER).glob("*.png"))
    return {f"1_report/{file.relative_to(run.path).as_posix()}": file
            for file in [run.path / report.REPORT, *figures]}


def squad_parts(run: RunFolder) -> Parts:
    """Results, predictions and logs of all SQuAD evaluations (tuned and base)."""
    results = [run.path / name for base in (False, True) for name in run.results_of("squad", base)]
    files = [*results, *(path.with_suffix(".predictions.json") for path in results), *squad_logs(run)]
    return {f"4_squad/{file.relative_to(run.path).as_posix()}": file for file in files if file.is_file()}


def squad_logs(run: RunFolder) -> list[Path]:
    """Logs of SQuAD evaluations: *squad*.log anywhere in the run folder."""
    return sorted(run.path.rglob("*squad*.log"))


def problems(run: RunFolder) -> Iterator[str]:
    """Everything that stands between a run and its hand-in, secrets aside."""
    for check in (_checkpoint_problems, _log_problems, _report_problems, _squad_problems):
        try:
            yield from check(run)
        except ToolkitError as error:
            yield str(error)
    if not any(link.get("public_read") for link in run.links):
        yield (f"no public link to the weights is recorded in {run.path.name}/{LINKS}; upload them with "
               "scripts/upload_obs.sh --public_read --record")


def _checkpoint_problems(run: RunFolder) -> Iterator[str]:
    steps = [checkpoint.step for checkpoint in run.checkpoints]
    if schedule.evenly_spaced(steps, run.steps.total, run.steps.sink_size) is None:
        yield (f"the checkpoints in {run.path.name}/checkpoint/rank_0 (steps "
               f"{', '.join(map(str, steps)) or 'none'}) do not hold {schedule.REQUIRED_CHECKPOINTS} evenly "
               f"spaced over {run.steps.total} steps; research_internlm/contest/plan.py --write sets them")


def _log_problems(run: RunFolder) -> Iterator[str]:
    workers = run.facts["workers"]
    if missing := sorted(set(range(workers)) - set(run.logs)):
        yield f"the training log of rank {', '.join(map(str, missing))} is missing ({workers} workers ran)"
    for rank, log in run.logs.items():
        steps = list(log.records)
        if not steps or steps[-1] < run.steps.total:
            yield (f"the training log of rank {rank} ends at step {steps[-1] if steps else 0} of "
                   f"{run.steps.total}")
        between = min((after - before for before, after in itertools.pairwise(steps)), default=1)
        gaps = [f"{before} to {after}" for before, after in itertools.pairwise([0, *steps])
                if after - before > between]
        if gaps:
            yield (f"the training log of rank {rank} lacks lines between steps {', '.join(gaps)}: an earlier "
                   "part was overwritten or is in a file outside the run folder")


def _report_problems(run: RunFolder) -> Iterator[str]:
    stated = run.stated()
    path = run.path / report.REPORT
    if path.is_file():
        stated[report.REPORT] = report.stated_in(path.read_text(encoding="utf-8"))
        if not stated[report.REPORT]:
            yield (f"{path.name} has no table of hyper-parameters; write it with "
                   "research_internlm/contest/report.py")
        inputs = (read_manifest(path) or {}).get("inputs", {})
        changed = [name for name, digest in inputs.items()
                   if not (run.path / name).is_file() or sha256_of(run.path / name) != digest]
        newer = [name for name in run.results if name not in inputs]
        if changed or newer:
            yield (f"{path.name} is older than {', '.join(changed + newer)}; write it again with "
                   "research_internlm/contest/report.py --overwrite")
    else:
        yield f"{path.name} is missing; write it with research_internlm/contest/report.py"
    yield from disagreements(stated)


def _squad_problems(run: RunFolder) -> Iterator[str]:
    tuned = run.results_of("squad", base=False)
    if not tuned:
        yield "the SQuAD result after tuning is missing; make it with research_internlm/evaluate.py squad"
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in squad_logs(run))
    for name, result in tuned.items():
        if result.get("limit") is not None:
            yield f"{name} asked only the first {result['limit']} questions; evaluate without --limit"
        if not (run.path / name).with_suffix(".predictions.json").is_file():
            yield f"the predictions of {name} are missing"
        scores = result["contest"]
        printed = f"F1 {scores['f1']:.2f}, EM {scores['em']:.2f}"
        if printed not in text:
            yield (f"no *squad*.log in {run.path.name} ends in {name}'s {printed}: keep the evaluation's "
                   "output, e.g. with 2>&1 | tee RUN_DIR/squad.log")
    gate = run.gate()
    if gate and not gate.passed:
        yield f"the hand-in would not count: {gate}"


def package(folder: str | Path, team: str, output: str | Path, overwrite: bool = False) -> Path:
    """Checks a run and packs its hand-in.

    Args:
        folder: The run folder.
        team: Name of the team and of the zip.
        output: Folder the zip goes to.
        overwrite: Replace an existing zip.

    Returns:
        The zip.

    Raises:
        ToolkitError: With every problem found, numbered.
    """
    if not _TEAM.fullmatch(team):
        raise ToolkitError(f"--team {team!r}: use letters, digits, dot, dash and underscore only, it "
                           "names the zip")
    target = require_absent(Path(output) / f"{team}.zip", overwrite)
    run = RunFolder(folder)
    found = list(problems(run))
    parts: Parts = {}
    for collect in (report_parts, training_parts, lambda _: source_parts(project_root()), squad_parts):
        with contextlib.suppress(ToolkitError):  # missing logs are among the problems already
            parts |= collect(run)
    parts = {name: path for name, path in parts.items() if path.is_file()}
    for name, path in tqdm(parts.items(), desc="looking for credentials", unit="file", disable=None):
        found += [f"{name} line {line} holds {what}; remove it" for line, what in secrets_scan.scan(path)]
    if found:
        listed = "; ".join(f"({place}) {text}" for place, text in enumerate(found, 1))
        raise ToolkitError(f"{folder} is not ready to hand in, {len(found)} problem(s): {listed}")
    write_zip(parts, target)
    return target


def write_zip(parts: Parts, target: Path) -> None:
    """Writes the zip and its sha256.txt; equal inputs give equal bytes."""
    with staging(target.parent) as folder:
        staged = folder / target.name
        with zipfile.ZipFile(staged, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            sums = ""
            for name, path in tqdm(parts.items(), desc="packing", unit="file", disable=None):
                sums += f"{_add(archive, name, path)}  {name}\n"
            archive.writestr(_entry("sha256.txt"), sums, zipfile.ZIP_DEFLATED, 6)
        publish(staged, target)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16
    return entry


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    """Adds one file in pieces, so that a large log needs no memory; returns its sha256."""
    digest = hashlib.sha256()
    with open(path, "rb") as source, archive.open(_entry(name), "w", force_zip64=True) as sink:
        while block := source.read(1 << 20):
            digest.update(block)
            sink.write(block)
    return digest.hexdigest()


def main(argv: list[str] | None = None) -> int:
    """Packs the run of the command line."""
    parser = argparse.ArgumentParser(prog="package_submission.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_DIR",
                        help="output_dir of a training run, with report and results")
    parser.add_argument("--team", required=True, metavar="NAME", help="name of the team, and of the zip")
    parser.add_argument("--output", default=".", metavar="D", help="folder of the zip (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing zip")
    arguments = parser.parse_args(argv)
    target = package(arguments.run, arguments.team, arguments.output, arguments.overwrite)
    print(f"written: {target} ({target.stat().st_size:,} bytes, sha256 {sha256_of(target)})")
    return 0


if __name__ == "__main__":
    run_main(main)
