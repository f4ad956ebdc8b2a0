"""The detection task: asking who wrote a text, and what the answers are worth.

Generated answers and the likelihood of the two verdicts come from the same prompt. A text without an answer
counts as wrong, and the numbers without such texts stand beside; what a count of words reaches does too.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from research_internlm.data import detection as texts
from research_internlm.data.detection import AI, CLASS_NAMES, CUTS, DETECTION_WORDING, HUMAN
from research_internlm.data.rows import record_length
from research_internlm.evaluation import baseline, detection_figures
from research_internlm.evaluation.classification import (
    Confusion,
    best_threshold,
    both_ways,
    reliability,
    roc_auc,
)
from research_internlm.evaluation.intervals import wilson_interval
from research_internlm.evaluation.task import Metric, Task
from research_internlm.inference.text_codec import TextCodec
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, read_manifest, sha256_of

Item = dict[str, Any]
_WORDS = (100, 200, 400, 800)  # edges of the groups by length
_NO_THRESHOLD = 0.5


@dataclass(frozen=True)
class Answer:
    """What the model answered to one text.

    Attributes:
        verdict: 0 or 1; None without an answer. By likelihood, the likelier one.
        probability: Of AI, among the two verdicts; None where answers are generated or it was not asked.
        text: The answer as generated.
    """

    verdict: int | None
    probability: float | None = None
    text: str = ""


@dataclass
class DetectionTask(Task):
    """Human or AI?

    Attributes:
        test_file: test_detection.json, or any list of objects with id, text and label.
        train_file: train_detection.json; the baselines are trained on it.
        valid_file: valid_detection.json; the threshold is chosen on it. Needed by `likelihood` only.
        mode: `likelihood` compares the two verdicts in one forward pass; `generate` reads the answer.
        sample_length: Tokens of a whole sample, to which training cut its texts.
        cut: How it cut them.
    """

    test_file: str
    train_file: str
    valid_file: str | None = None
    mode: str = "likelihood"
    sample_length: int = record_length(1024)
    cut: str = CUTS[0]
    name: ClassVar[str] = "detection"
    version: ClassVar[str] = DETECTION_WORDING
    help: ClassVar[str] = "texts by humans and by AI told apart"
    pictures: ClassVar[tuple[str, ...]] = (".png",)

    def __post_init__(self) -> None:
        if self.compares and not self.valid_file:
            raise ToolkitError("--mode likelihood chooses its threshold on validation texts: give "
                               "--valid_file valid_detection.json, or take --mode generate")
        self._train = _load(self.train_file, "--train_file")
        baseline.require_baseline(self._train, f"--train_file {self.train_file}")
        self._test = _load(self.test_file, "--test_file")
        self._valid = _load(self.valid_file, "--valid_file") if self.compares else []
        self._cut_texts: Counter[str] = Counter()
        # The test comes first, so that a limit leaves test texts.
        self.items = [*self._test, *self._valid]

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Adds the options that the fields are named after."""
        parser.add_argument("--test_file", required=True, metavar="F", help="test_detection.json, or a JSON "
                            "list of objects with id, text and label (1 = AI)")
        parser.add_argument("--train_file", required=True, metavar="F", help="train_detection.json, for the "
                            "baselines beside the result")
        parser.add_argument("--valid_file", metavar="F", help="valid_detection.json, for the threshold")
        parser.add_argument("--mode", choices=("likelihood", "generate"), default="likelihood",
                            help="likelihood: compare both verdicts in one forward pass; generate: read the "
                            "written answer (default: %(default)s)")
        parser.add_argument("--sample_length", type=whole(1), default=record_length(1024), metavar="N",
                            help="tokens of a whole sample, to which longer texts are cut: record_length in "
                            "the manifest of the training MindRecord (default: %(default)s)")
        parser.add_argument("--cut", choices=CUTS, default=CUTS[0],
                            help="as the converter cut them (default: %(default)s)")

    @property
    def compares(self) -> bool:
        """Whether the verdicts' likelihoods are compared."""
        return self.mode == "likelihood"

    def prompt(self, item: Item, codec: TextCodec) -> list[int]:
        """The chat prompt of training, its text cut as in training."""
        fitted = texts.fit_text(item, self.sample_length, self.cut, codec.processor, codec.special)
        self._cut_texts[CLASS_NAMES[item["label"]]] += fitted is not item
        return codec.encode(texts.render_detection(fitted, codec.special.family, answered=False))

    def candidates(self, item: Item, codec: TextCodec) -> tuple[list[int], list[int]]:
        """What stands before the verdict, and the two verdicts."""
        return texts.verdict_position(item["language"], codec.processor)

    def read_answer(self, item: Item, reply: str | np.ndarray | None) -> Answer:
        """The verdict, strictly; a text that was not asked has none."""
        if isinstance(reply, np.ndarray):
            probability = float(1 / (1 + np.exp(np.float64(reply[HUMAN]) - reply[AI])))
            return Answer(int(probability >= _NO_THRESHOLD), probability)
        return Answer(texts.read_verdict(reply or ""), None, reply or "")

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> dict[str, Any]:
        """All numbers; see the keys of runs/results.py, DetectionScores.

        Raises:
            ToolkitError: There is nothing to score.
        """
        test, given = items[:len(self._test)], answers[:len(self._test)]
        if not test:
            raise ToolkitError("no texts to score; check --test_file and --limit")
        labels = [item["label"] for item in test]
        threshold = self._threshold(answers[len(self._test):])
        self._calls = calls = [_call(answer, threshold["value"] if threshold else None) for answer in given]
        manifest = read_manifest(self.test_file) or {}
        return {
            "mode": self.mode, "evaluation_kind": manifest.get("evaluation_kind", "unknown"),
            "hold_out": manifest.get("hold_out", "unknown"), **both_ways(labels, calls),
            "threshold": threshold, **self._by_likelihood(labels, given),
            "per_source": _grouped(test, calls, lambda item: str(item.get("source") or "unknown")),
            "per_prompt": _grouped(test, calls, lambda item: str(item.get("prompt") or "unknown")),
            "per_length": _grouped(test, calls, _length_of),
            "cut": {name: self._cut_texts[name] for name in CLASS_NAMES},
            "sample_length": self.sample_length,
            "baseline": self._baseline(test, labels),
            "unanswered_ids": [item["id"] for item, call in zip(test, calls, strict=True) if call is None],
        }

    def _threshold(self, given: Sequence[Answer]) -> dict[str, Any] | None:
        """The probability from which a text is called AI, by the validation texts alone."""
        if not self.compares:
            return None
        asked = [(item["label"], answer.probability) for item, answer in zip(self._valid, given, strict=False)
                 if answer.probability is not None]
        value = best_threshold(*zip(*asked, strict=True)) if asked else _NO_THRESHOLD
        return {"value": value, "validation_texts": len(asked)}

    def _by_likelihood(self, labels: Sequence[int], given: Sequence[Answer]) -> dict[str, Any]:
        asked = [(label, answer.probability) for label, answer in zip(labels, given, strict=True)
                 if answer.probability is not None]
        if not asked:
            return {"at_one_half": None, "roc_auc": None, "calibration": None}
        own, probabilities = zip(*asked, strict=True)
        return {"at_one_half": Confusion.of(own, np.array(probabilities) >= _NO_THRESHOLD).scores(),
                "roc_auc": roc_auc(own, probabilities), "calibration": reliability(own, probabilities)}

    def _baseline(self, test: Sequence[Item], labels: Sequence[int]) -> dict[str, Any]:
        probabilities = baseline.bag_of_words(self._train, [*test, *self._valid])
        self._words, on_valid = probabilities[:len(test)], probabilities[len(test):]
        # On equal terms with the model: both thresholds come from the validation texts.
        threshold = (best_threshold([item["label"] for item in self._valid], on_valid) if self._valid
                     else _NO_THRESHOLD)
        return {"bag_of_words": baseline.describe(labels, self._words, threshold,
                                                  trained_on=len(self._train)),
                "surface_marks": baseline.describe(labels, baseline.surface_marks(self._train, test))}

    def predictions(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """Label, verdict, probability and text of each test text."""
        return [{"id": item["id"], "label": item["label"], "verdict": answer.verdict,
                 "probability": answer.probability, "text": answer.text, "bag_of_words": float(words)}
                for item, answer, words in zip(items[:len(self._test)], answers[:len(self._test)],
                                               self._words, strict=True)]

    def metrics(self, items: Sequence[Item], answers: Sequence[Answer], result: Mapping[str, Any]
                ) -> dict[str, Metric]:
        """Accuracy, precision and recall with unanswered texts as wrong, and ROC-AUC where it is known."""
        scores = result["unanswered_wrong"]
        counts = scores["confusion"]
        metrics = {name: Metric(scores[name], wilson_interval(right, of) if of else None)
                   for name, right, of in (
                       ("accuracy", counts["tp"] + counts["tn"], sum(counts.values())),
                       ("precision", counts["tp"], counts["tp"] + counts["fp"]),
                       ("recall", counts["tp"], counts["tp"] + counts["fn"]))}
        if result["roc_auc"]:
            metrics["ROC-AUC"] = Metric(result["roc_auc"]["auc"], result["roc_auc"]["interval_95"])
        return metrics

    def decisions(self, items: Sequence[Item], answers: Sequence[Answer]) -> dict[str, int | None]:
        """What each test text was called, at the threshold chosen with the same weights."""
        return {str(item["id"]): call for item, call in zip(items, self._calls, strict=False)}

    def facts(self) -> dict[str, Any]:
        """Hashes of the files."""
        return {f"{name}_sha256": sha256_of(path) if path else None for name, path in (
            ("test_file", self.test_file), ("train_file", self.train_file), ("valid_file", self.valid_file))}

    def draw(self, result: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], output: Path
             ) -> None:
        """Confusion matrix, ROC and reliability beside the results."""
        detection_figures.draw(result, predictions, output.with_suffix(".png"))

    def lines(self, result: Mapping[str, Any]) -> Iterator[str]:
        """Both accuracies, the AUC, and the baselines."""
        counts, wrong, dropped = (result[key] for key in ("counts", "unanswered_wrong", "unanswered_dropped"))
        yield (f"detection, {result['mode']}, hold out {result['hold_out']}: accuracy "
               f"{wrong['accuracy']:.2%}, precision {wrong['precision']:.2%}, recall {wrong['recall']:.2%}, "
               f"F1 {wrong['f1']:.2%} over {counts['total']} texts ({counts['ai']} AI), "
               f"{counts['unanswered']} unanswered count as wrong")
        yield f"  unanswered dropped: accuracy {dropped['accuracy']:.2%} over {counts['answered']} texts"
        if result["roc_auc"]:
            low, high = result["roc_auc"]["interval_95"]
            yield (f"  ROC-AUC {result['roc_auc']['auc']:.4f} (95 % {low:.4f} to {high:.4f}, "
                   f"{result['roc_auc']['method']}); ECE {result['calibration']['ece']:.4f}; AI from "
                   f"{result['threshold']['value']:.4f} on, chosen on "
                   f"{result['threshold']['validation_texts']} validation texts")
        for name, own in result["baseline"].items():
            auc = own and own["roc_auc"]
            yield f"  beside it, {name}: " + (
                f"accuracy {own['accuracy']:.2%}" + (f", ROC-AUC {auc['auc']:.4f}" if auc else "")
                if own else "not known, since the items do not say their marks")


def _load(path: str, option: str) -> list[Item]:
    """The items of a file; a text of another maker gets our instruction."""
    items = texts.read_items(read_json(path, option), f"{option} {path}")
    return [item if "instruction" in item and item.get("language") in texts.LANGUAGES else
            {**item, **texts.detection_item(item["text"], item["label"], texts.language_of(item["text"]))}
            for item in items]


def _call(answer: Answer, threshold: float | None) -> int | None:
    if threshold is None or answer.probability is None:
        return answer.verdict
    return int(answer.probability >= threshold)


def _length_of(item: Item) -> str:
    words = item.get("words") or len(item["text"].split())
    edges = (0, *_WORDS)
    place = sum(words >= edge for edge in _WORDS)
    return f"{edges[place]:03} words and more" if place == len(_WORDS) else (
        f"{edges[place]:03} to {_WORDS[place] - 1} words")


def _grouped(items: Sequence[Item], calls: Sequence[int | None], group_of: Callable[[Item], str]
             ) -> dict[str, dict[str, Any]]:
    """Texts, unanswered ones and accuracy (unanswered wrong) of each group, overall and by class."""
    groups: dict[str, list[tuple[int, int | None]]] = defaultdict(list)
    for item, call in zip(items, calls, strict=True):
        groups[group_of(item)].append((item["label"], call))
    return {name: {"texts": len(pairs), "unanswered": sum(call is None for _, call in pairs),
                   "accuracy": sum(label == call for label, call in pairs) / len(pairs),
                   **{f"accuracy_{title}": _share([call == label for own, call in pairs if own == label])
                      for label, title in enumerate(CLASS_NAMES)}}
            for name, pairs in sorted(groups.items())}


def _share(right: Sequence[bool]) -> float | None:
    return sum(right) / len(right) if right else None
