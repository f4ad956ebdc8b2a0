"""Publishes a checked folder: opens the repository, sends what it lacks, and holds its listing against it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from research_internlm.publishing import card, metafile
from research_internlm.publishing.contents import CARD, Item, collect
from research_internlm.publishing.hub import AGAIN, Hub, Remote
from research_internlm.publishing.modelers import Modelers
from research_internlm.publishing.modelscope import ModelScope
from research_internlm.publishing.openxlab import OpenXLab
from research_internlm.runs.run_folder import RunFolder
from research_internlm.shared import secrets_scan
from research_internlm.shared.errors import ToolkitError

HUBS = tuple(card.FRONT_MATTER)


@dataclass(frozen=True)
class Plan:
    """What is to be published.

    Attributes:
        hub: One of HUBS.
        repo: USER/NAME.
        licence: Identifier.
        items: The files, the card among them.
        hidden: Names of hidden files, which are not sent.
        datasets: What the model was scored on.
        card: Text of the card where it was written for this call; None where the folder has its own.
        place: Temporary folder of this call.
    """

    hub: str
    repo: str
    licence: str
    items: list[Item]
    hidden: list[str]
    datasets: list[str]
    card: str | None
    place: Path


@contextlib.contextmanager
def prepared(folder: Path, hub: str, repo: str, run: Path | None = None, licence: str | None = None,
             base_model: str | None = None) -> Iterator[Plan]:
    """Checks a folder, and writes the card where the folder has none.

    Args:
        folder: The folder to publish; nothing is written there.
        hub: One of HUBS.
        repo: USER/NAME.
        run: Folder of the run that made the weights.
        licence: Identifier; None takes that of the folder's card.
        base_model: Name of the base model; None takes that of adapter_config.json.

    Raises:
        ToolkitError: With everything that forbids to publish the folder.
    """
    facts_of_run = RunFolder(run) if run else None
    datasets = card.datasets(facts_of_run)
    items, hidden = collect(folder)
    licence = card.licence_of(folder, licence)
    text = None
    with tempfile.TemporaryDirectory(prefix="publish-") as name:
        place = Path(name)
        if not any(item.name == CARD for item in items):
            facts = card.Facts(repo.partition("/")[2], licence, card.base_model_of(folder, base_model), items,
                               facts_of_run)
            text = card.render(facts, hub)
            items = [_written_card(place, text), *items]
        if hub == "openxlab":
            metafile.build(repo, licence, items, datasets)
        yield Plan(hub, repo, licence, items, hidden, datasets, text, place)


def _written_card(place: Path, text: str) -> Item:
    path = place / "card.md"
    path.write_text(text, encoding="utf-8")
    if found := sorted({what for _, what in secrets_scan.scan(path)}):
        raise ToolkitError(f"the model card would hold {', '.join(found)}, which stands in the run's "
                           "settings or manifests; take it out there")
    return Item.of(CARD, path)


def connect(plan: Plan) -> Hub:
    """The hub's side of a plan."""
    if plan.hub == "modelscope":
        return ModelScope(plan.repo, plan.licence)
    if plan.hub == "modelers":
        return Modelers(plan.repo, plan.licence, sorted({item.path.parent for item in plan.items}))
    return OpenXLab(plan.repo, plan.licence, plan.datasets, plan.place)


def publish(plan: Plan, hub: Hub, private: bool, say: Callable[[str], object] = print) -> None:
    """Sends what the hub lacks, and verifies all of it.

    Args:
        plan: What is to be there.
        hub: Where.
        private: Whether a repository that is made is private.
        say: Takes lines for the user.

    Raises:
        ToolkitError: Something was not sent, or the listing afterwards differs.
    """
    before = {} if hub.open(private) else hub.listing()
    missing = [item for item in plan.items if not _is_there(before, item)]
    say(f"{len(plan.items) - len(missing)} of {len(plan.items)} files are there already, {len(missing)} "
        f"({sum(item.size for item in missing):,} bytes) are sent")
    if missing:
        hub.send(missing)
    after = hub.listing()
    wrong = list(_differences(after, plan.items))
    if wrong:
        raise ToolkitError(f"{plan.repo} does not hold what was sent, {len(wrong)} file(s): "
                           f"{'; '.join(wrong)}; {AGAIN}")
    for item in plan.items:
        say(f"{item.name} ({item.size:,} bytes, {_evidence(after[item.name])})")
    others = sorted(set(after) - {item.name for item in plan.items})
    if others:
        say(f"{len(others)} other file(s) were in {plan.repo} before and stay: {', '.join(others)}")


def _is_there(listing: dict[str, Remote], item: Item) -> bool:
    return item.name in listing and listing[item.name].holds(item)


def _differences(listing: dict[str, Remote], items: Sequence[Item]) -> Iterator[str]:
    for item in items:
        found = listing.get(item.name)
        if found is None:
            yield f"{item.name} is not listed"
        elif not found.holds(item):
            size = "" if found.size is None else f"{found.size:,} bytes, "
            yield (f"{item.name} is listed as {size}sha256 {(found.sha256 or 'not told')[:12]}, here it has "
                   f"{item.size:,} bytes, sha256 {item.sha256[:12]}")


def _evidence(remote: Remote) -> str:
    """What the listing proves of a file that agrees with it."""
    if remote.size is None:
        return "name listed, sent by this machine; the hub tells no size"
    return "size and sha256 verified" if remote.sha256 else "size verified; the hub tells no sha256"
