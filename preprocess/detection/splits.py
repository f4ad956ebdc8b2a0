"""Training, validation and test texts that have nothing in common that gives the answer away.

A cluster of near-duplicates is on one side always. `prompts` keeps each prompt on one side, `generators` each
generator (a source of AI texts), `both` both; validation is held out like the test, so a threshold that is
chosen on it has not seen the training's prompts or generators either.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from research_internlm.data.detection import AI, HUMAN
from research_internlm.shared.errors import ToolkitError

SIDES = ("train", "valid", "test")
HOLD_OUTS = ("random", "prompts", "generators", "both")
_DRAWS = 200
NOT_SAMPLED, CROSSING, NO_PROMPT = "not_sampled", "crosses_the_split", "prompt_unknown"


@dataclass(frozen=True)
class Texts:
    """Facts of the clean texts, each array with one entry a text.

    Attributes:
        labels: 0 or 1.
        sources: Number of the source.
        prompts: Number of the prompt.
        clusters: Equal for near-duplicates.
    """

    labels: np.ndarray
    sources: np.ndarray
    prompts: np.ndarray
    clusters: np.ndarray


@dataclass(frozen=True)
class Split:
    """Where each text goes.

    Attributes:
        sides: For each text one of SIDES, or "" for none.
        reasons: For each text of no side, why.
        groups: `prompts` and `generators` -> side -> their numbers, where they are held out.
    """

    sides: np.ndarray
    reasons: np.ndarray
    groups: dict[str, dict[str, list[int]]]


def split(texts: Texts, hold_out: str, shares: Mapping[str, float], sample: float, seed: int,
          unknown_prompt: int | None, names: Mapping[str, list[str]]) -> Split:
    """Assigns texts to sides.

    Args:
        texts: The clean texts.
        hold_out: One of HOLD_OUTS.
        shares: Share of `valid` and of `test`; the rest is training.
        sample: Share of the texts that is used, drawn within each class and source.
        seed: Of all draws.
        unknown_prompt: The number of the prompt that stands for "not known", if any.
        names: Names of `prompts` and `sources`, for messages.

    Raises:
        ToolkitError: Too few prompts or generators to have some on each side, or a side lacks a class.
    """
    generator = np.random.default_rng(seed)
    reasons = np.full(len(texts.labels), "", "U32")
    strata = _numbered(texts.labels, texts.sources)
    if sample < 1:
        drawn = _deal(np.arange(len(texts.labels)), strata, {"sampled": sample, "": 1 - sample}, generator)
        reasons[drawn == ""] = NOT_SAMPLED
    by_prompt, by_generator = hold_out in ("prompts", "both"), hold_out in ("generators", "both")
    if by_prompt and unknown_prompt is not None:
        reasons[(texts.prompts == unknown_prompt) & (reasons == "")] = NO_PROMPT
    used = reasons == ""
    targets = {"train": 1 - sum(shares.values()), **shares}
    groups, sides = {}, np.full(len(used), "", "U5")
    ai = texts.labels == AI
    if by_prompt:
        prompt_sides = _sides_of_groups(texts.prompts, texts.labels, used, targets, generator, "prompts",
                                        names["prompts"])
        groups["prompts"] = _members(prompt_sides)
        sides[used] = [prompt_sides[number] for number in texts.prompts[used].tolist()]
    else:
        sides[used] = _deal(texts.clusters[used], strata[used], targets, generator)
    if by_generator:
        own_sides = _sides_of_groups(texts.sources, texts.labels, used & ai, targets, generator, "generators",
                                     names["sources"])
        groups["generators"] = _members(own_sides)
        own = np.array([own_sides.get(number, "") for number in texts.sources.tolist()])
        if by_prompt:  # a text of a training prompt by a test generator can be on neither side
            reasons[used & ai & (own != sides)] = CROSSING
        else:
            sides[used & ai] = own[used & ai]
    sides[reasons != ""] = ""
    _keep_clusters_whole(texts.clusters, sides, reasons)
    _require_both_classes(texts.labels, sides)
    return Split(sides, reasons, groups)


def _members(sides: Mapping[int, str]) -> dict[str, list[int]]:
    return {side: sorted(number for number, own in sides.items() if own == side) for side in SIDES}


def _numbered(*columns: np.ndarray) -> np.ndarray:
    """One number for each combination of values."""
    return np.unique(np.stack(columns), axis=1, return_inverse=True)[1].reshape(-1)


def _deal(clusters: np.ndarray, strata: np.ndarray, targets: Mapping[str, float],
          generator: np.random.Generator) -> np.ndarray:
    """Sides by whole clusters, with the target shares in each stratum; a cluster counts where it begins."""
    _, first, own = np.unique(clusters, return_index=True, return_inverse=True)
    names = list(targets)
    edges = np.cumsum(list(targets.values()))[:-1]
    sides = np.empty(len(first), "U8")
    for stratum in np.unique(strata[first]):
        members = generator.permutation(np.flatnonzero(strata[first] == stratum))
        # A random start lets small strata reach the shares together, where rounding each would not.
        places = (np.arange(len(members)) + generator.random()) / len(members)
        sides[members] = np.array(names)[np.searchsorted(edges, places, side="right")]
    return sides[own.reshape(-1)]


def _sides_of_groups(numbers: np.ndarray, labels: np.ndarray, used: np.ndarray, targets: Mapping[str, float],
                     generator: np.random.Generator, what: str, names: list[str]) -> dict[int, str]:
    """Sides of whole prompts or generators: of many draws the one nearest to the shares of each class."""
    present = np.unique(numbers[used])
    if len(present) < len(SIDES):
        listed = ", ".join(repr(names[number]) for number in present.tolist()) or "none"
        raise ToolkitError(f"--hold_out needs {len(SIDES)} {what} or more, one for each of "
                           f"{', '.join(SIDES)}; found {len(present)} ({listed}): add texts, or "
                           "take another --hold_out")
    counts = np.stack([[np.count_nonzero(used & (numbers == number) & (labels == label))
                        for number in present] for label in (HUMAN, AI)])
    counts = counts[counts.sum(axis=1) > 0]
    wanted = np.array([targets[side] for side in SIDES])
    best, least = None, np.inf
    for _ in range(_DRAWS):
        drawn = _draw(len(present), wanted, counts.sum(axis=0), generator)
        found = np.stack([counts[:, drawn == side].sum(axis=1) for side in range(len(SIDES))], axis=1)
        distance = np.abs(found / counts.sum(axis=1, keepdims=True) - wanted).sum() if found.all() else np.inf
        if distance < least:
            best, least = drawn, distance
    if best is None:
        raise ToolkitError(f"--hold_out cannot give each of {', '.join(SIDES)} texts of both classes: too "
                           f"few {what} have both; take another --hold_out")
    return {int(number): SIDES[side] for number, side in zip(present, best, strict=True)}


def _draw(count: int, wanted: np.ndarray, sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random side for each group: test and validation take groups until they have their share."""
    order = generator.permutation(count)
    drawn = np.zeros(count, int)
    place = 0
    for side in (2, 1):
        taken = 0
        share = wanted[side] * sizes.sum()
        while place < count - side and (not taken or taken + sizes[order[place]] / 2 < share):
            drawn[order[place]] = side
            taken += sizes[order[place]]
            place += 1
    return drawn


def _keep_clusters_whole(clusters: np.ndarray, sides: np.ndarray, reasons: np.ndarray) -> None:
    """Takes out the texts of a cluster that are on another side than its first text."""
    used = np.flatnonzero(sides != "")
    _, first, own = np.unique(clusters[used], return_index=True, return_inverse=True)
    crossing = used[sides[used] != sides[used[first]][own.reshape(-1)]]
    sides[crossing], reasons[crossing] = "", CROSSING


def _require_both_classes(labels: np.ndarray, sides: np.ndarray) -> None:
    lacking = [f"{side} has no {name} text" for side, (label, name) in itertools.product(
        SIDES, ((HUMAN, "human"), (AI, "AI"))) if not np.any((sides == side) & (labels == label))]
    if lacking:
        raise ToolkitError(f"the split is of no use: {'; '.join(lacking)}; give more texts, larger "
                           "--valid_share and --test_share, or another --hold_out")
