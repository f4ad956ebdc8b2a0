"""Writes the report of a run, and reads its table back to compare it with the run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_internlm.contest import report_sections as sections
from research_internlm.runs import log_summary
from research_internlm.runs.run_folder import RunFolder
from research_internlm.shared import schema
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import (
    manifest_path,
    sha256_of,
    write_manifest,
    write_text,
)
from research_internlm.shared.result_set import result_set
from research_internlm.shared.run_layout import LINKS, RESOLVED_CONFIG, RUN_FACTS, TRAIN_LOG

REPORT = "report.md"
SUMMARY = f"{log_summary.OUTPUT_FOLDER}/summary.json"
_FACT_ROW = re.compile(r"^\|[^|]*`(\w+)`[^|]*\|\s*([^|]+?)\s*\|\s*$", re.MULTILINE)
_AGAIN = "write it again with research_internlm/report.py --overwrite"


@dataclass(frozen=True, kw_only=True)
class _ReportManifest:
    """What a report was written from.

    Attributes:
        tool: What wrote it.
        lang: Its language, `zh` or `en`.
        inputs: Name in the run folder -> sha256 of what it was written from.
        figures: The same of the figures it shows.
        checkpoints: Name in the run folder -> step of the checkpoints it lists.
        sha256: Of the report.
    """

    tool: str
    lang: str
    inputs: dict[str, str]
    figures: dict[str, str]
    checkpoints: dict[str, int]
    sha256: str


def stated_in(text: str) -> dict[str, str]:
    """Facts that a report's text states, edited by hand or not: key -> value without separators."""
    return {key: value.replace(",", "") for key, value in _FACT_ROW.findall(text) if key in sections.STATED}


def render(run: RunFolder, summary: Mapping[str, Any], lang: str) -> str:
    """The whole report as markdown.

    Args:
        run: The run.
        summary: Its logs' figures.
        lang: `zh` or `en`.
    """
    def translate(chinese: str, english: str) -> str:
        return chinese if lang == "zh" else english

    titled = [
        (translate("算法介绍", "Algorithm"), sections.algorithm(run, translate)),
        (translate("数据规模与预处理", "Data and preprocessing"), sections.data(run, translate)),
        (translate("超参数", "Hyper-parameters"), sections.hyperparameters(run, translate)),
        (translate("训练过程", "Training"), sections.training(run, summary, translate)),
        (translate("评测结果", "Evaluation"), sections.evaluation(run, translate)),
        (translate("权重链接", "Weights"), sections.weights(run, translate)),
        (translate("环境与复现", "Environment and reproduction"), sections.environment(run, translate)),
        (translate("对官方推理的改动", "Changes to the official inference"),
         sections.inference(run, translate)),
    ]
    lines = [f"# {translate('InternLM 微调工作报告', 'Work report: fine-tuning InternLM')}"]
    for place, (title, body) in enumerate(titled, 1):
        lines += ["", f"## {place}. {title}", "", *body]
    return "\n".join(lines) + "\n"


def stated_by(run: RunFolder) -> dict[str, str]:
    """Facts that the run's report states; empty where there is no report."""
    path = run.path / REPORT
    return stated_in(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else {}


def inputs_of(run: RunFolder) -> list[str]:
    """Files of the run that a report is written from, as they are now."""
    optional = [name for name in (LINKS, TRAIN_LOG) if (run.path / name).is_file()]
    return [RESOLVED_CONFIG, RUN_FACTS, SUMMARY, *run.results, *optional,
            *map(run.name_of, [*run.log_files, *run.attempts])]


def figures_of(run: RunFolder) -> list[str]:
    """The figures that the report shows."""
    return [run.name_of(path) for path in sorted((run.path / log_summary.OUTPUT_FOLDER).glob("*.png"))]


def write_report(folder: str | Path, lang: str, overwrite: bool) -> Path:
    """Writes RUN_DIR/report.md, its figures and its manifest.

    Raises:
        ToolkitError: No run there, files that cannot be read (all are listed), or there is a report already.
    """
    run = RunFolder(folder)
    with result_set(run.path / REPORT, overwrite) as results:
        if problems := run.unreadable():
            raise ToolkitError(f"no report of {folder}, {len(problems)} of its sources cannot be read: "
                               + "; ".join(f"({place}) {text}" for place, text in enumerate(problems, 1)))
        summary = log_summary.analyse(run.path, run.path / log_summary.OUTPUT_FOLDER, overwrite=True)
        staged = results.folder / REPORT
        write_text(staged, render(run, summary, lang))
        digests = {name: sha256_of(run.path / name) for name in (*inputs_of(run), *figures_of(run))}
        write_manifest(staged, **schema.to_json(_ReportManifest(
            tool="research_internlm/report.py", lang=lang,
            inputs={name: digests[name] for name in inputs_of(run)},
            figures={name: digests[name] for name in figures_of(run)},
            checkpoints=_checkpoint_steps(run), sha256=sha256_of(staged))))
        results.publish(REPORT)
    return run.path / REPORT


def _checkpoint_steps(run: RunFolder) -> dict[str, int]:
    return {run.name_of(checkpoint.path): checkpoint.step for checkpoint in run.checkpoints}


def problems_of(run: RunFolder) -> Iterator[str]:
    """Why the report in a run folder is not the report of what the folder holds."""
    path = run.path / REPORT
    if not path.is_file():
        yield f"{path.name} is missing; write it with research_internlm/report.py"
        return
    due = {key for facts in run.stated().values() for key in facts if key in sections.STATED}
    if missing := sorted(due - set(stated_by(run))):
        yield f"{path.name} has no row of {', '.join(missing)} in its table of hyper-parameters; {_AGAIN}"
    if not manifest_path(path).exists():
        yield (f"{path.name} has no {path.name}.manifest.json beside it, so what it was written from "
               f"is unknown; {_AGAIN}")
        return
    manifest = schema.read(manifest_path(path), _ReportManifest, "the manifest", _AGAIN)
    if manifest.sha256 != sha256_of(path):
        yield f"{path.name} was edited after it was written; {_AGAIN}"
    yield from _manifest_problems(run, manifest)


def _manifest_problems(run: RunFolder, manifest: _ReportManifest) -> Iterator[str]:
    inputs, figures = manifest.inputs, manifest.figures
    now = {name: sha256_of(run.path / name) for name in (*inputs, *figures) if (run.path / name).is_file()}
    if gone := [name for name in (*inputs, *figures) if name not in now]:
        yield f"{REPORT} was written with {', '.join(gone)}, which is missing; put it back, or {_AGAIN}"
    changed = [name for name in inputs if name in now and now[name] != inputs[name]]
    newer = [name for name in inputs_of(run) if name not in inputs]
    if manifest.checkpoints != _checkpoint_steps(run):
        newer.append("the checkpoints")
    if changed or newer:
        yield f"{REPORT} is older than {', '.join(changed + newer)}; {_AGAIN}"
    if other := [name for name in figures if name in now and now[name] != figures[name]]:
        yield f"{', '.join(other)} changed after {REPORT} was written; {_AGAIN}"
