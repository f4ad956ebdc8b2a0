"""The model card (README.md of a repository), written from the facts of a folder and of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from research_internlm.contest import report_sections
from research_internlm.contest.report_text import rows
from research_internlm.data import families
from research_internlm.publishing.contents import CARD, Item
from research_internlm.runs.results import DetectionResult, EvaluationFacts, MmluResult, Result, SquadResult
from research_internlm.runs.run_folder import RunFolder
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, read_manifest, read_text
from research_internlm.shared.parsing import parse_yaml

ADAPTER_CONFIG = "adapter_config.json"
# What each hub reads of a card's front matter; OpenXLab takes the licence from metafile.yml.
FRONT_MATTER = {
    "modelscope": ("license", "tasks", "frameworks", "language", "base_model"),
    "modelers": ("license", "pipeline_tag", "frameworks", "library_name", "language", "base_model"),
    "openxlab": ("license",),
}


@dataclass(frozen=True)
class Facts:
    """What a card is written from.

    Attributes:
        title: Heading.
        licence: Identifier, e.g. `apache-2.0`.
        base_model: Name of the base model as its hub has it; None where it is not known.
        items: The files, the card itself left out.
        run: The run that made the weights; None where it is not known.
    """

    title: str
    licence: str
    base_model: str | None
    items: Sequence[Item]
    run: RunFolder | None


def licence_of(folder: Path, given: str | None) -> str:
    """The licence: the command line's, or that of the card in the folder.

    Raises:
        ToolkitError: None is stated, or two differ.
    """
    card = folder / CARD
    stated = front_matter_of(card).get("license") if card.is_file() else None
    if given and stated and given != stated:
        raise ToolkitError(f"--license says {given}, {card} says {stated}; correct one of the two")
    if not (given or stated):
        raise ToolkitError("no licence is stated and none is assumed: pass --license, e.g. --license "
                           "apache-2.0, as the base model and the data allow")
    return str(given or stated)


def front_matter_of(card: Path) -> Mapping[str, Any]:
    """The YAML between the first two `---` of a card; empty where there is none.

    Raises:
        ToolkitError: It is not valid YAML.
    """
    text = read_text(card, "the model card")
    head, found, _ = text.removeprefix("---\n").partition("\n---")
    if not (text.startswith("---\n") and found):
        return {}
    content = parse_yaml(head, f"the front matter of {card}")
    return content if isinstance(content, Mapping) else {}


def base_model_of(folder: Path, given: str | None) -> str | None:
    """The base model's name: the command line's, or that of adapter_config.json."""
    path = folder / ADAPTER_CONFIG
    if given or not path.is_file():
        return given
    config = read_json(path, "the adapter's settings")
    stated = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    # A folder of this machine is no name that others could look up.
    return stated if isinstance(stated, str) and not stated.startswith((".", "/", "~")) else None


def render(facts: Facts, hub: str) -> str:
    """The whole card.

    Args:
        facts: What it says.
        hub: Key of FRONT_MATTER.
    """
    names = {item.name for item in facts.items}
    is_mindspore = any(name.endswith(".ckpt") for name in names)
    known = {"license": facts.licence, "tasks": ["text-generation"], "pipeline_tag": "text-generation",
             "frameworks": ["mindspore" if is_mindspore else "pytorch"],
             "library_name": "peft" if ADAPTER_CONFIG in names else None if is_mindspore else "transformers",
             "language": ["zh", "en"], "base_model": facts.base_model}
    front = {key: known[key] for key in FRONT_MATTER[hub] if known[key]}
    parts = [f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---", f"# {facts.title}",
             "\n".join(_origin(facts))]
    sections = [("Files", _files(facts.items))]
    if facts.run:
        sections = [("Training", report_sections.algorithm(facts.run, _english)),
                    ("Data", report_sections.data(facts.run, _english)),
                    ("Recipe", report_sections.hyperparameters(facts.run, _english)),
                    ("Scores", scores(facts.run, facts.items)), *sections]
    parts += [f"## {heading}\n\n" + "\n".join(lines) for heading, lines in sections]
    return "\n\n".join(parts) + "\n"


def _english(chinese: str, english: str) -> str:
    del chinese
    return english


def _origin(facts: Facts) -> Iterator[str]:
    base = facts.base_model
    if facts.run:
        family = families.by_config_type(facts.run.model_config.get("type"))
        base = base or (f"a model of the family {family.title}" if family else None)
    yield f"- Base model: {base or 'not recorded'}"
    yield f"- Licence: {facts.licence}"
    if not facts.run:
        yield "- Training data, recipe and scores: not recorded here"


def _files(items: Sequence[Item]) -> list[str]:
    return rows(("file", "bytes", "sha256"), [(item.name, item.size, f"`{item.sha256}`") for item in items])


def scores(run: RunFolder, items: Sequence[Item]) -> Iterator[str]:
    """One row an evaluation, with what it measured and on which weights."""
    results = {name: result for name, result in run.results.items() if isinstance(result, EvaluationFacts)}
    if not results:
        yield "Not measured."
        return
    own = weights_in(items)
    yield from rows(("measured", "weights", "score", "asked", "file"), [
        (_measured(result), _weights(run, result, own), _score(result), _asked(result), name)
        for name, result in results.items()])
    if any(getattr(result, "evaluation_kind", "") == "reordered_train_questions"
           for result in results.values()):
        yield ""
        yield ("`reordered_train_questions` are training questions with reordered options: accuracy on them "
               "measures memory.")


def weights_in(items: Sequence[Item]) -> set[str]:
    """sha256 of the weights in a folder, and of those they were exported from, as their manifests say."""
    found = {item.sha256 for item in items}
    for item in items:
        inputs = (read_manifest(item.path) or {}).get("inputs")
        found |= set(inputs.values()) if isinstance(inputs, dict) else set()
    return {value for value in found if isinstance(value, str)}


def _weights(run: RunFolder, result: EvaluationFacts, own: set[str]) -> str:
    if result.checkpoint_sha256 in own:
        return "these"
    return "base model" if run.is_base(result) else f"others: {result.checkpoint}"


def _measured(result: Result) -> str:
    if isinstance(result, MmluResult):
        return f"multiple choice ({', '.join(result.per_source)}; {result.mode}), {result.evaluation_kind}"
    if isinstance(result, SquadResult):
        return "reading (SQuAD v1.1): F1 / EM of the official metric"
    return f"texts by humans and by AI told apart ({result.mode}), {result.evaluation_kind}"


def _score(result: Result) -> str:
    if isinstance(result, MmluResult):
        low, high = result.overall.interval_95
        return f"{result.overall.accuracy:.2%} (95 %: {low:.2%} to {high:.2%})"
    if isinstance(result, SquadResult):
        return f"{result.official.f1:.2f} / {result.official.em:.2f}"
    wrong = result.unanswered_wrong
    return f"accuracy {wrong['accuracy']:.2%}, F1 {wrong['f1']:.4f}"


def _asked(result: Result) -> str:
    first = "" if result.limit is None else " (the first only)"
    if isinstance(result, DetectionResult):
        return f"{result.counts['total']:,}{first}"
    total = result.overall.total if isinstance(result, MmluResult) else result.official.total
    return f"{total:,}{first}"


def datasets(run: RunFolder | None) -> list[str]:
    """Names of the data sets that the run's results were measured on."""
    found: dict[str, None] = {}
    for result in run.results.values() if run else ():
        if isinstance(result, MmluResult):
            found |= dict.fromkeys(name.upper() for name in result.per_source)
        elif isinstance(result, SquadResult):
            found["SQuAD v1.1"] = None
    return list(found)
