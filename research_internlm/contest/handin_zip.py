"""Collects the parts of a submission, checks them, and writes the zip."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from research_internlm.contest import handin_checks, report_tables, squad_check
from research_internlm.contest.report_sections import SOURCE_PREFIX
from research_internlm.runs import attempts
from research_internlm.runs.run_folder import RunFolder
from research_internlm.shared import run_layout, secrets_scan
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import files_below, manifest_path, publish, require_absent
from research_internlm.shared.run_layout import RESOLVED_CONFIG, RUN_FACTS
from research_internlm.shared.staging import staging
from research_internlm.shared.terminal import printable

Parts = dict[str, Path]  # name inside the zip -> file
_SOURCE = ("research_internlm", "preprocess", "scripts", "yaml", "docs", "setup.cfg", "pyproject.toml",
           "LICENSE", "README.md", "README_zh.md", "CHANGELOG.md")
_SOURCE_README = Path(__file__).with_name("source_readme.md")
_TEAM = re.compile(r"[\w.-]+")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first date: the same inputs give the same bytes


def project_root() -> Path:
    """Folder the source package is taken from."""
    return Path(__file__).resolve().parents[2]


def source_parts(root: Path) -> Parts:
    """The source package: names below mindformers/research/internlm, and how to make it run."""
    parts: Parts = {f"{SOURCE_PREFIX.split('/')[0]}/README.md": _SOURCE_README}
    for name in _SOURCE:
        top = root / name
        files = files_below(top) if top.is_dir() else [top]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts and not _is_hidden(file, root):
                parts[f"{SOURCE_PREFIX}/{file.relative_to(root).as_posix()}"] = file
    return parts


def _is_hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def training_parts(run: RunFolder) -> Parts:
    """Config, run facts, every log file of every worker, and each attempt's record and output of msrun."""
    folder = run.path / run_layout.LOG_FOLDER
    files = [run.path / RESOLVED_CONFIG, run.path / RUN_FACTS, *files_below(run.path, "scheduler.log"),
             *attempts.records(run.path), *files_below(folder, run_layout.MSRUN_LOG),
             *run.log_files]
    return {f"2_training/{run.name_of(file)}": file for file in files if not _is_hidden(file, run.path)}


def report_parts(run: RunFolder) -> Parts:
    """The report, its manifest and the figures it shows."""
    path = run.path / report_tables.REPORT
    figures = [run.path / name for name in report_tables.figures_of(run)]
    return {f"1_report/{run.name_of(file)}": file for file in [path, manifest_path(path), *figures]}


def squad_parts(run: RunFolder) -> Parts:
    """Results, predictions and logs of all SQuAD evaluations (tuned and base)."""
    names = [name for base in (False, True) for name in run.squad_results(base)]
    files = [*(run.path / name for name in names), *(squad_check.predictions_of(run, name) for name in names),
             *squad_check.squad_logs(run)]
    return {f"4_squad/{run.name_of(file)}": file for file in files}


def credentials(parts: Parts) -> Iterator[str]:
    """Credentials in the files to be packed: file, first line, kind and number of lines."""
    for name, path in tqdm(parts.items(), desc="looking for credentials", unit="file", disable=None):
        lines: dict[str, list[int]] = {}
        for line, what in secrets_scan.scan(path):
            lines.setdefault(what, []).append(line)
        for what, places in lines.items():
            more = f" (and {len(places) - 1} more lines)" if len(places) > 1 else ""
            yield f"{name} line {places[0]} holds {what}{more}; remove it"


def unsafe_names(parts: Parts, roots: Sequence[Path]) -> Iterator[str]:
    """Parts that must not go out: links that lead out of their folder, names that act on a terminal.

    Args:
        parts: What is to be packed.
        roots: The run folder and the source package.
    """
    resolved = [root.resolve() for root in roots]
    for name, path in parts.items():
        if printable(name) != name or any(ord(char) < 32 for char in name):
            yield f"the name {name!r} holds control characters; rename the file"
        if not any(path.resolve().is_relative_to(root) for root in resolved):
            yield f"{name} is a link out of its folder, to {path.resolve()}; put the file itself there"


def package(folder: str | Path, team: str, output: str | Path, overwrite: bool = False) -> Path:
    """Checks a run and packs its submission.

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
    parts = {name: path for collected in (report_parts(run), training_parts(run),
                                          source_parts(project_root()), squad_parts(run))
             for name, path in collected.items() if path.is_file()}
    problems = [*handin_checks.problems(run), *unsafe_names(parts, (run.path, project_root())),
             *credentials(parts)]
    if problems:
        listed = "; ".join(f"({place}) {text}" for place, text in enumerate(problems, 1))
        raise ToolkitError(f"{folder} is not ready to submit, {len(problems)} problem(s): {listed}")
    write_zip(parts, target)
    return target


def write_zip(parts: Parts, target: Path) -> None:
    """Writes the zip and its sha256.txt; equal inputs give equal bytes."""
    with staging(target) as folder:
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
