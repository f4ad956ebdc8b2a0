"""What a mirror of a run holds, as its one object `mirror.json` says: written last, so it is never ahead.

Objects lie under PREFIX/files/ and carry their checksum in the name, so no object is ever replaced: an
index always names bytes that are there, whatever was being sent when the machine went away. It also names
what its pushers may remove; nothing else under the prefix is ever touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.recipes.schedule import saving_of, steps_of
from research_internlm.runs import same_run
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json
from research_internlm.shared.run_layout import IDENTITY, RESOLVED_CONFIG, RUN_FACTS, is_run

INDEX = "mirror.json"
FOLDER = "files"
_HASH_DIGITS = 16


@dataclass(frozen=True)
class Mirrored:
    """A file of the run that the index names.

    Attributes:
        bytes: Its size.
        sha256: Of its content.
        step: Steps done, for a full checkpoint.
    """

    bytes: int
    sha256: str
    step: int | None = None


@dataclass
class Index:
    """All that is in a mirror.

    Attributes:
        recipe: The run's resolved recipe.
        facts: Its run.json.
        files: Path in the run folder -> file.
        leftovers: Objects that a pusher of this mirror began or has replaced: to be removed, unless a file
            is in them.
    """

    recipe: dict[str, Any]
    facts: dict[str, Any]
    files: dict[str, Mirrored] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)

    @property
    def last(self) -> int:
        """Step of its last checkpoint; 0 for none."""
        return max((file.step for file in self.files.values() if file.step is not None), default=0)

    @property
    def is_run(self) -> bool:
        """Whether a folder made from it is a run."""
        return all(name in self.files for name in IDENTITY)

    def encode(self) -> bytes:
        """The object's content."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).encode()

    @classmethod
    def decode(cls, content: bytes, url: str) -> Index:
        """Reads the object.

        Raises:
            ToolkitError: It is none, or names a file outside of a run folder.
        """
        try:
            value = json.loads(content)
            files = {name: Mirrored(**file) for name, file in value["files"].items()}
            index = cls(value["recipe"], value["facts"], files, list(value["leftovers"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ToolkitError(f"{url}/{INDEX} is no mirror's index ({error}); use another prefix") from None
        for name in (*index.files, *index.leftovers):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ToolkitError(f"{url}/{INDEX} names {name}, which is outside of a run folder")
        return index


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
                 read_json(folder / RUN_FACTS, "the run's facts"))


def differences(mirror: Index, run: Index) -> Iterator[str]:
    """Settings and data in which a mirror is one of another run than the folder's."""
    yield from same_run.differences(mirror.recipe, run.recipe)
    yield from same_run.data_differences(mirror.facts, run.facts.get("data", {}), run.facts["workers"])


def refusal(mirror: Index, run: Index, last: int, url: str, folder: Path) -> str | None:
    """Why a run must not be sent to a mirror that is there already, or None.

    Args:
        mirror: What the mirror holds.
        run: The run, files left out.
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
    """Checkpoints worth keeping: the last, and the five to hand in (all that stay, where there are no five).

    Args:
        run: The run, with the files its mirror holds.
        local: Steps of the complete checkpoints on this machine.
    """
    rows = run.facts["data"]["train_dataset"]["counts"]["out"]
    saving = saving_of(run.recipe, steps_of(run.recipe, rows, run.facts["workers"]))
    return {*(saving.five or saving.kept), max([*local, run.last], default=0)}


def inputs_of(facts: Mapping[str, Any]) -> Iterator[str]:
    """What a mirror does not hold and a machine must have to continue, a line each."""
    for section, data in facts.get("data", {}).items():
        yield f"{section}: {data['file']} (sha256 {data.get('sha256')})"
    if facts.get("load_checkpoint_sha256"):
        yield ("base weights, to evaluate and merge; resuming does not need them: sha256 "
               f"{facts['load_checkpoint_sha256']}")
