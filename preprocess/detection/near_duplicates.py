"""Near-duplicates: texts that share most of their three-word sequences (shingles).

MinHash signatures (datasketch) are cut into bands; texts that agree in a band are candidates, and a pair is
near-duplicate where the Jaccard similarity of its shingles, computed and not estimated, reaches the limit.
Bands are compared by sorting numbers. datasketch's own index keeps a Python set for each text and band,
which is gigabytes at a million texts; here a text costs 256 bytes, and its shingles lie on the disk.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from research_internlm.shared.extras import load_extra

PERMUTATIONS = 64
BANDS = 16  # of 4 values: a pair of similarity 0.7 is compared with probability 0.988, one of 0.8 with 0.9998
SHINGLE_WORDS = 3
_WORD = re.compile("[^\\W_\u3400-\u9fff\uf900-\ufaff]+|[\u3400-\u9fff\uf900-\ufaff]")
# Odd 64-bit numbers of mixed bits, the constants of MurmurHash3 and xxHash.
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xFF51AFD7ED558CCD],
                    np.uint64)
_CACHED_WORDS = 1 << 18


def words_of(text: str) -> list[str]:
    """Words in lower case, a Chinese character being one; punctuation left out."""
    return _WORD.findall(text.lower())


class Signer:
    """Shingles and signatures of texts; keeps the hashes of words it has seen."""

    def __init__(self) -> None:
        self._hashes: dict[str, int] = {}
        self._min_hash = load_extra("datasketch", "detection").MinHash
        self._permutations = self._min_hash(PERMUTATIONS, hashfunc=_unchanged).permutations

    def shingles(self, words: Sequence[str]) -> np.ndarray:
        """Sorted distinct hashes of the word sequences, uint32; one for a text of fewer words."""
        if len(self._hashes) > _CACHED_WORDS:
            self._hashes.clear()
        known = self._hashes
        for word in set(words).difference(known):
            known[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        hashes = np.fromiter(map(known.__getitem__, words), np.uint64, len(words))
        width = min(SHINGLE_WORDS, len(words))
        if not width:
            return np.zeros(0, np.uint32)
        count = len(words) - width + 1
        mixed = sum(hashes[place:place + count] * _FACTORS[place] for place in range(width))
        return np.unique((mixed >> np.uint64(32)).astype(np.uint32))

    def signature(self, shingles: np.ndarray) -> np.ndarray:
        """The text's MinHash values, uint32 (PERMUTATIONS,)."""
        # The shingles are hashes already, and datasketch mixes them before permuting.
        made = self._min_hash(PERMUTATIONS, hashfunc=_unchanged, permutations=self._permutations,
                              scheme="affine32")
        made.update_batch(shingles.tolist())
        return made.hashvalues


def _unchanged(value: int) -> int:
    return value


class Clusters:
    """Disjoint sets of texts (union-find); a set is named by its first text."""

    def __init__(self, count: int) -> None:
        self._parents = np.arange(count)

    def find(self, index: int) -> int:
        """The first text of a text's set."""
        parents = self._parents
        root = index
        while parents[root] != root:
            root = int(parents[root])
        while parents[index] != root:
            parents[index], index = root, int(parents[index])
        return root

    def join(self, one: int, other: int) -> None:
        """Makes two sets one."""
        first, second = sorted((self.find(one), self.find(other)))
        self._parents[second] = first

    def names(self) -> np.ndarray:
        """The set of each text."""
        return np.array([self.find(index) for index in range(len(self._parents))], np.int64)


def cluster(signatures: np.ndarray, shingles_of: Callable[[int], np.ndarray], least: float,
            clusters: Clusters) -> np.ndarray:
    """Groups near-duplicates, and what is near-duplicate to one of them.

    Args:
        signatures: uint32 (texts, PERMUTATIONS).
        shingles_of: Gives the shingles of a text.
        least: Jaccard similarity from which a pair is near-duplicate.
        clusters: Of the texts; what is equal may be joined already.

    Returns:
        For each text the first text of its cluster, int64 (texts,).
    """
    width = PERMUTATIONS // BANDS
    for start in range(0, PERMUTATIONS, width):
        values = (signatures[:, start:start + width] * _FACTORS[:width]).sum(axis=1, dtype=np.uint64)
        for members in _agreeing(values):
            _join_similar(members, signatures, clusters, shingles_of, least)
    return clusters.names()


def _agreeing(values: np.ndarray) -> Iterator[np.ndarray]:
    """Groups of two or more texts with equal values, in the order of the texts."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], np.diff(values[order]) != 0)))
    sizes = np.diff(np.concatenate((starts, [len(values)])))
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[start:start + size]


def _join_similar(members: np.ndarray, signatures: np.ndarray, clusters: Clusters,
                  shingles_of: Callable[[int], np.ndarray], least: float) -> None:
    """Joins the similar pairs among texts that agree in a band."""
    # Agreeing values of a pair are binomial: four deviations below the mean of the least similarity, none is
    # missed, and most chance candidates need no look at their shingles.
    wanted = PERMUTATIONS * least - 4 * (PERMUTATIONS * least * (1 - least)) ** 0.5
    own = signatures[members]
    for place, one in enumerate(members[:-1].tolist()):
        agreeing = (own[place + 1:] == own[place]).sum(axis=1) >= wanted
        for other in members[place + 1:][agreeing].tolist():
            if clusters.find(one) != clusters.find(other) and (
                    jaccard(shingles_of(one), shingles_of(other)) >= least):
                clusters.join(one, other)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Similarity of two sorted sets of shingles: common ones / all of them."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / max(1, len(one) + len(other) - common)
