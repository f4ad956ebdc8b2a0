"""The loss task: how likely a model finds texts, items or conversations, and how that compares with others.

With a reference file it measures what the InternLM2 report calls contamination (section on data
contamination; first used by Skywork, 2023): the loss on a file minus the loss on texts of the same kind that
no training can have held, because they were written later. Well below 0, the model knows the file.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from research_internlm.evaluation.intervals import Z_95
from research_internlm.evaluation.task import Metric, Task
from research_internlm.inference.samples import Content, encode_sample, read_contents
from research_internlm.inference.text_codec import TextCodec
from research_internlm.shared.files import sha256_of

FILE, REFERENCE = "file", "reference"


@dataclass
class LossItem:
    """One sample of a file.

    Attributes:
        name: `file` or `reference`, and its number in it.
        origin: FILE or REFERENCE.
        content: A text or a training item.
        supervised: For each token after the first whether it belongs to an answer; None for a text, and
            before it is encoded.
    """

    name: str
    origin: str
    content: Content
    supervised: np.ndarray | None = None


@dataclass
class LossTask(Task):
    """Mean loss a token and perplexity.

    Attributes:
        file: A text, or items (.json, .jsonl).
        reference: The same; None compares nothing.
    """

    file: str
    reference: str | None = None
    name: ClassVar[str] = "loss"
    version: ClassVar[str] = "loss-1"
    help: ClassVar[str] = "mean loss a token and perplexity of texts, items or conversations"

    def __post_init__(self) -> None:
        files = [[LossItem(f"{origin} {number}", origin, content)
                  for number, content in enumerate(read_contents(path, f"--{origin}"), 1)]
                 for origin, path in ((FILE, self.file), (REFERENCE, self.reference)) if path]
        # In turns, so that a limit leaves both.
        self.items = [item for items in itertools.zip_longest(*files) for item in items if item]

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Adds --file and --reference."""
        parser.add_argument("--file", required=True, metavar="F", help="items or conversations (.json, "
                            ".jsonl), or any other file as one text")
        parser.add_argument("--reference", metavar="F", help="the same kind of texts, which no training has "
                            "seen: the difference tells whether the model knows --file")

    @property
    def measures(self) -> bool:
        """Whether the losses of all tokens are asked for."""
        return True

    def prompt(self, item: LossItem, codec: TextCodec) -> list[int]:
        """The sample as training encodes it, its answers included."""
        sample = encode_sample(item.content, codec)
        item.supervised = None if sample.supervised is None else np.array(sample.supervised[1:], bool)
        return sample.ids

    def read_answer(self, item: LossItem, reply: list[np.ndarray] | None) -> list[np.ndarray]:
        """The losses as they are, one array a window."""
        return reply or []

    def score(self, items: Sequence[LossItem], answers: Sequence[list[np.ndarray]]) -> dict[str, Any]:
        """Loss and perplexity of each file, over all tokens and over the answers, and their difference."""
        pairs = [*zip(items, answers, strict=True)]
        files = {origin: _of_file([pair for pair in pairs if pair[0].origin == origin])
                 for origin in (FILE, REFERENCE)}
        difference = None
        if files[REFERENCE]:
            difference = {kind: _difference(files[FILE][kind], files[REFERENCE][kind])
                          for kind in ("all", "answers")}
        return {**files, "difference": difference}

    def metrics(self, items: Sequence[LossItem], answers: Sequence[list[np.ndarray]],
                result: Mapping[str, Any]) -> dict[str, Metric]:
        """Loss and perplexity of the file."""
        found = result[FILE][_kind(result[FILE])]
        metrics = {"loss": Metric(found["loss"], found["interval_95"]),
                   "perplexity": Metric(found["perplexity"], found["perplexity_interval_95"])}
        if result["difference"]:
            difference = result["difference"][_kind(result[FILE])] or result["difference"]["all"]
            metrics["difference"] = Metric(difference["loss"], difference["interval_95"])
        return metrics

    def predictions(self, items: Sequence[LossItem], answers: Sequence[list[np.ndarray]]
                    ) -> list[dict[str, Any]]:
        """Tokens and mean loss of each sample."""
        return [{"id": item.name, **{
            kind: _mean(_concatenated(windows)[mask]) for kind, mask in _masks(item, windows).items()}}
            for item, windows in zip(items, answers, strict=True)]

    def facts(self) -> dict[str, Any]:
        """The files' hashes."""
        return {"file_sha256": sha256_of(self.file),
                "reference_sha256": sha256_of(self.reference) if self.reference else None}

    def lines(self, result: Mapping[str, Any]) -> Iterator[str]:
        """Loss and perplexity of each file, and the difference."""
        for origin, path in ((FILE, self.file), (REFERENCE, self.reference)):
            for kind in ("all", "answers") if path else ():
                if found := result[origin][kind]:
                    yield (f"loss of {Path(path).name}, {'all tokens' if kind == 'all' else 'answers'}: "
                           f"{found['loss']:.4f}{_interval(found['interval_95'])}, perplexity "
                           f"{found['perplexity']:.2f}{_interval(found['perplexity_interval_95'])}, "
                           f"{found['tokens']:,} tokens, {found['units']} {found['unit']}")
        for kind, found in (result["difference"] or {}).items():
            if found:
                yield (f"difference, {'all tokens' if kind == 'all' else 'answers'}: {found['loss']:+.4f}"
                       f"{_interval(found['interval_95'])}: {_verdict(found)}")


def _masks(item: LossItem, windows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    everything = np.ones(sum(map(len, windows)), bool)
    return {"all": everything} if item.supervised is None else {"all": everything, "answers": item.supervised}


def _concatenated(windows: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(windows) if windows else np.zeros(0, np.float32)


def _mean(losses: np.ndarray) -> dict[str, Any]:
    return {"tokens": len(losses), "loss": float(losses.mean()) if len(losses) else None}


def _kind(found: Mapping[str, Any]) -> str:
    return "answers" if found["answers"] else "all"


def _of_file(pairs: Sequence[tuple[LossItem, list[np.ndarray]]]) -> dict[str, Any] | None:
    """Scores of one file; None where there is none."""
    if not pairs:
        return None
    if pairs[0][0].supervised is None:
        return {"all": mean_loss([window for _, windows in pairs for window in windows], "windows"),
                "answers": None}
    samples = [(item, _concatenated(windows)) for item, windows in pairs]
    return {"all": mean_loss([losses for _, losses in samples], "samples"),
            "answers": mean_loss([losses[item.supervised] for item, losses in samples], "samples")}


def mean_loss(units: Sequence[np.ndarray], unit: str) -> dict[str, Any]:
    """Mean loss a token over units, with an interval that takes whole units as what was drawn.

    Tokens of one text are not independent, so the error of the ratio is that of a cluster sample (Cochran,
    Sampling Techniques, 1977, section 2.11): n / (n - 1) * sum of (s_i - mean * t_i)^2 / (sum of t_i)^2, with
    the loss s_i and the tokens t_i of unit i.

    Args:
        units: Losses of the tokens of each, in nats.
        unit: What a unit is.

    Returns:
        `loss`, `standard_error`, `interval_95` and `perplexity` with `perplexity_interval_95` (None for a
        single unit), `tokens`, `units`, `unit`.
    """
    sums = np.array([losses.sum(dtype=np.float64) for losses in units])
    counts = np.array([len(losses) for losses in units])
    mean, number = float(sums.sum() / counts.sum()), len(units)
    error = interval = None
    if number > 1:
        squares = float(((sums - mean * counts) ** 2).sum())
        error = math.sqrt(number / (number - 1) * squares) / int(counts.sum())
        interval = [mean - Z_95 * error, mean + Z_95 * error]
    return {"loss": mean, "standard_error": error, "interval_95": interval, "perplexity": _perplexity(mean),
            "perplexity_interval_95": interval and [_perplexity(bound) for bound in interval],
            "tokens": int(counts.sum()), "units": number, "unit": unit}


def _difference(found: Mapping[str, Any] | None, reference: Mapping[str, Any] | None
                ) -> dict[str, Any] | None:
    """Loss of a file minus that of another, drawn independently."""
    if not found or not reference:
        return None
    value, interval = found["loss"] - reference["loss"], None
    if found["interval_95"] and reference["interval_95"]:
        reach = Z_95 * math.hypot(found["standard_error"], reference["standard_error"])
        interval = [value - reach, value + reach]
    return {"loss": value, "interval_95": interval}


def _interval(bounds: Sequence[float] | None) -> str:
    return f" (95 % {bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""


def _verdict(difference: Mapping[str, Any]) -> str:
    if not difference["interval_95"]:
        return "no interval from a single text"
    low, high = difference["interval_95"]
    if high < 0:
        return "the model knows the file better than the reference"
    return "the reference is likelier than the file" if low > 0 else "no difference beyond chance"


def _perplexity(loss: float) -> float:
    """e^loss, or e^700: a float holds no more than e^709, and weights that diverged lose more."""
    return math.exp(min(loss, 700.0))
