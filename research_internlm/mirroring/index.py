"""What a mirror of a run holds, as its one object `mirror.json` says: written last, so it is never ahead.

Objects lie under PREFIX/files/ and carry their checksum in the name, so no object is ever replaced: an
index always names bytes that are there, whatever was being sent when the machine was lost. It also names
what its pushers may remove; nothing else under the prefix is ever touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from research_internlm import recipes
from research_internlm.data.manifest import RunData
from research_internlm.recipes.schedule import plan_from_recipe, steps_from_recipe
from research_internlm.runs import same_run
from research_internlm.runs.run_info import RunInfo, read_run_info
from research_internlm.shared import schema
from research_internlm.shared.files import decode
from research_internlm.shared.parsing import parse_json
from research_internlm.shared.run_layout import IDENTITY, RESOLVED_CONFIG, is_run
from research_internlm.shared.schema import Count, PlainPath, Rule, Sha256

INDEX = "mirror.json"
FOLDER = "files"
_HASH_DIGITS = 16


@dataclass(frozen=True)
class _Component:
    type: str


@dataclass(frozen=True)
class _TrainingRecipe:
    """What the schedule reads of a recipe; it checks the numbers itself."""

    runner_config: dict[str, Any]
    train_dataset: dict[str, Any]
    callbacks: list[_Component]


_Recipe = Annotated[dict[str, Any], Rule(
    lambda recipe: not schema.problems(_TrainingRecipe, recipe),
    "a training recipe with runner_config, train_dataset and callbacks that each have a type")]
_TrainingInfo = Annotated[RunInfo, Rule(
    lambda info: "train_dataset" in info.data, "the run.json of a training with its train_dataset")]


@dataclass(frozen=True)
class Mirrored:
    """A file of the run that the index names.

    Attributes:
        bytes: Its size.
        sha256: Of its content.
        step: Steps done, for a full checkpoint.
    """

    bytes: Count
    sha256: Sha256
    step: Count | None = None


@dataclass(frozen=True)
class RunSettings:
    """What makes a run this one and no other, known before it has a run.json.

    Attributes:
        recipe: Its resolved recipe.
        data: Its data files.
        workers: Its workers.
    """

    recipe: recipes.Recipe
    data: Mapping[str, RunData]
    workers: int


@dataclass
class Index:
    """mirror.json: all that is in a mirror.

    Everything in it is checked before use, because whoever may write to the bucket may write it: names that
    lead out of a run folder, or a sha256 that is a path, must not reach the file system.

    Attributes:
        recipe: The run's resolved recipe.
        facts: Its run.json.
        files: Path in the run folder -> file.
        leftovers: Objects that a pusher of this mirror began or has replaced: to be removed, unless a file
            is in them.
    """

    recipe: _Recipe
    facts: _TrainingInfo
    files: dict[PlainPath, Mirrored] = field(default_factory=dict)
    leftovers: list[PlainPath] = field(default_factory=list)

    @property
    def last(self) -> int:
        """Step of its last checkpoint; 0 for none."""
        return max((file.step for file in self.files.values() if file.step is not None), default=0)

    @property
    def settings(self) -> RunSettings:
        """The run's, to be compared with those of a mirror."""
        return RunSettings(self.recipe, self.facts.data, self.facts.workers)

    @property
    def is_run(self) -> bool:
        """Whether a folder made from it is a run."""
        return all(name in self.files for name in IDENTITY)

    def encode(self) -> bytes:
        """The object's content."""
        return json.dumps(schema.to_json(self), ensure_ascii=False, indent=1).encode()

    @classmethod
    def decode(cls, content: bytes, url: str) -> Index:
        """Reads the object.

        Raises:
            ToolkitError: It is not a mirror's index, or not a valid one.
        """
        source = f"the mirror's index {url}/{INDEX}"
        return schema.parse(cls, parse_json(decode(content, source), source), source, "use another prefix")


def object_of(name: str, sha256: str) -> str:
    """Name of a file's object, below PREFIX/files/."""
    return f"{name}.{sha256[:_HASH_DIGITS]}"


def key_of(prefix: str, name: str) -> str:
    """Key of an object by its name."""
    return "/".join(filter(None, (prefix, FOLDER, name)))


def index_key(prefix: str) -> str:
    """Key of the index."""
    return "/".join(filter(None, (prefix, INDEX)))


def read_run(folder: Path) -> Index | None:
    """An index without files for the run in a folder, or None where its config is not yet written."""
    if not is_run(folder):
        return None
    return Index(recipes.load_yaml(folder / RESOLVED_CONFIG),
                 read_run_info(folder))


def differences(mirror: Index, run: RunSettings) -> Iterator[str]:
    """Settings and data in which a mirror is one of another run than the folder's."""
    yield from same_run.differences(mirror.recipe, run.recipe)
    yield from same_run.data_differences(mirror.facts, run.data, run.workers)


def refusal(mirror: Index, run: RunSettings, last: int, url: str, folder: Path) -> str | None:
    """Why a run must not be sent to a mirror that is there already, or None.

    Args:
        mirror: What the mirror holds.
        run: The run.
        last: Step of its last complete checkpoint on this machine.
        url: The mirror.
        folder: The run's folder.
    """
    if different := list(differences(mirror, run)):
        return f"{url} mirrors another run: {'; '.join(different)}; use another prefix"
    if mirror.last > last:
        return (f"{url} holds this run up to step {mirror.last}, {folder} only to step {last}: continue the "
                f"run with --resume {url}, or mirror to another prefix")
    return None


def wanted_steps(run: Index, local: Iterable[int]) -> set[int]:
    """Checkpoints worth keeping: the last, and the five to submit (all that stay, where there are no five).

    Args:
        run: The run, with the files its mirror holds.
        local: Steps of the complete checkpoints on this machine.
    """
    rows = run.facts.data["train_dataset"].counts.out
    plan = plan_from_recipe(run.recipe, steps_from_recipe(run.recipe, rows, run.facts.workers))
    return {*(plan.to_submit or plan.kept), max([*local, run.last], default=0)}


def inputs_of(facts: RunInfo) -> Iterator[str]:
    """What a mirror does not hold and a machine must have to continue, a line each."""
    for section, data in facts.data.items():
        yield f"{section}: {data.file} (sha256 {data.sha256})"
    if facts.load_checkpoint_sha256:
        yield ("base weights, to continue from a save without them, to evaluate and to merge: sha256 "
               f"{facts.load_checkpoint_sha256}")
