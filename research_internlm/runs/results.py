"""Result files of evaluate.py: what a task scored, and which weights, recipe and prompts made it.

A result is flat JSON: the scores of its task, then EvaluationFacts. Dataclasses put the fields of the *last*
base class first, so each result names EvaluationFacts first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from research_internlm.shared.schema import Count, Interval


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts:
    """What a result needs to be believed.

    Attributes:
        checkpoint: File name of the weights.
        checkpoint_sha256: Of the weights.
        config: File name of the recipe.
        overlays: File names of its overlays.
        overrides: `key.path=value` of the command line.
        device_target: `Ascend` or `CPU`.
        seed: The recipe's.
        tokenizer_sha256: Of tokenizer.model.
        prompt_version: Version of the chat template.
        task_version: Version of the task's own wording and reading; None in results from before it was noted.
        limit: Only the first questions were asked, so many; None for all.
        seconds: Wall time.
    """

    checkpoint: str
    checkpoint_sha256: str
    config: str
    overlays: list[str]
    overrides: list[str]
    device_target: str
    seed: int | None
    tokenizer_sha256: str
    prompt_version: str
    task_version: str | None = None
    limit: Count | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ChoiceCounts:
    """How many multiple-choice answers were right.

    Attributes:
        total: Questions asked.
        correct: Right answers.
        unmatched: Answers from which no letter can be read; they count as wrong.
        accuracy: correct / total, 0 to 1.
        interval_95: Wilson's 95 % interval of the accuracy, two fractions.
    """

    total: Count
    correct: Count
    unmatched: Count
    accuracy: float
    interval_95: Interval


@dataclass(frozen=True, kw_only=True)
class MmluScores:
    """Multiple-choice accuracy.

    Attributes:
        task: `mmlu`.
        mode: How the letter was found: `generate` or `logits`.
        evaluation_kind: What the test measures, as the manifest of the test file says.
        overall: All questions.
        per_source: `mmlu`, `cmmlu`, ... -> its questions.
        per_category: source/subject -> its questions.
        unmatched_answers: id and text of every answer without a letter.
        test_file_sha256: Of the test file.
    """

    task: Literal["mmlu"]
    mode: str
    evaluation_kind: str
    overall: ChoiceCounts
    per_source: dict[str, ChoiceCounts]
    per_category: dict[str, ChoiceCounts]
    unmatched_answers: list[dict[str, Any]]
    test_file_sha256: str


@dataclass(frozen=True, kw_only=True)
class Scores:
    """F1 and exact match under one metric.

    Attributes:
        f1: Mean F1, percent.
        em: Exact match, percent.
        total: Questions scored.
        missing: Those without a prediction.
    """

    f1: float
    em: float
    total: Count
    missing: Count


@dataclass(frozen=True, kw_only=True)
class SquadScores:
    """SQuAD under both metrics, which do not compare with each other.

    Attributes:
        official: SQuAD v1.1's metric over all questions.
        contest: EmF1Metric over the first question of each paragraph.
        missing_ids: Questions without a prediction.
        unknown_ids: Predictions for no question of the file.
        warnings: Sentences on both.
        squad_file_sha256: Of the SQuAD file.
    """

    official: Scores
    contest: Scores
    missing_ids: list[str]
    unknown_ids: list[str]
    warnings: list[str]
    squad_file_sha256: str


@dataclass(frozen=True, kw_only=True)
class DetectionScores:
    """Texts by humans and by AI told apart. AI is the positive class.

    Attributes:
        task: `detection`.
        mode: `likelihood` or `generate`.
        evaluation_kind: As in MmluScores.
        hold_out: What training, validation and test do not share, as the manifest of the test file says.
        counts: Texts of each class, answered and unanswered.
        unanswered_wrong: accuracy, precision, recall, f1 and confusion, an unanswered text counting as called
            the other class.
        unanswered_dropped: The same over the answered texts alone.
        threshold: `value`, the probability from which a text is called AI, and the `validation_texts` it was
            chosen on; None where answers are generated.
        at_one_half: The scores at the threshold 0.5.
        roc_auc: `auc`, `interval_95` and `method`; None where answers are generated or a class is missing.
        calibration: `ece` and `bins`.
        per_source, per_prompt, per_length: Group -> texts, unanswered, accuracy overall and of each class.
        cut: Class -> asked texts (validation included) that were cut to sample_length.
        sample_length: Tokens of a whole sample.
        baseline: `bag_of_words` and `surface_marks`: accuracy, f1 and roc_auc on the same test texts, and the
            threshold, which for `bag_of_words` comes from the validation texts as well.
        unanswered_ids: Texts without a verdict.
        test_file_sha256, train_file_sha256, valid_file_sha256: Of the files.
    """

    task: Literal["detection"]
    mode: str
    evaluation_kind: str
    hold_out: str
    counts: dict[str, Count]
    unanswered_wrong: dict[str, Any]
    unanswered_dropped: dict[str, Any]
    threshold: dict[str, Any] | None
    at_one_half: dict[str, Any] | None
    roc_auc: dict[str, Any] | None
    calibration: dict[str, Any] | None
    per_source: dict[str, Any]
    per_prompt: dict[str, Any]
    per_length: dict[str, Any]
    cut: dict[str, Count]
    sample_length: Count
    baseline: dict[str, Any]
    unanswered_ids: list[str]
    test_file_sha256: str
    train_file_sha256: str
    valid_file_sha256: str | None


@dataclass(frozen=True, kw_only=True)
class LossScores:
    """How likely a model finds texts.

    Attributes:
        task: `loss`.
        file: `all` and `answers`: loss, perplexity, intervals and counts; `answers` is None for plain text.
        reference: The same; None where none was given.
        difference: `all` and `answers`: loss of the file minus that of the reference, with its interval.
        file_sha256, reference_sha256: Of the files.
    """

    task: Literal["loss"]
    file: dict[str, Any]
    reference: dict[str, Any] | None
    difference: dict[str, Any] | None
    file_sha256: str
    reference_sha256: str | None


@dataclass(frozen=True, kw_only=True)
class _SquadTask:
    """`task` and `questions` (`all` or `contest`), which stand first in the file."""

    task: Literal["squad"]
    questions: str


@dataclass(frozen=True, kw_only=True)
class _SquadScoreTask:
    task: Literal["squad-score"]


@dataclass(frozen=True, kw_only=True)
class MmluResult(EvaluationFacts, MmluScores):
    """Result of evaluate.py mmlu."""


@dataclass(frozen=True, kw_only=True)
class SquadResult(EvaluationFacts, SquadScores, _SquadTask):
    """Result of evaluate.py squad."""


@dataclass(frozen=True, kw_only=True)
class PredictionScores(SquadScores, _SquadScoreTask):
    """Result of evaluate.py squad-score, which knows no weights.

    Attributes:
        predictions_sha256: Of the prediction file.
    """

    predictions_sha256: str


@dataclass(frozen=True, kw_only=True)
class DetectionResult(EvaluationFacts, DetectionScores):
    """Result of evaluate.py detection."""


@dataclass(frozen=True, kw_only=True)
class LossResult(EvaluationFacts, LossScores):
    """Result of evaluate.py loss."""


Result = MmluResult | SquadResult | PredictionScores | DetectionResult | LossResult
RESULTS: dict[str, type] = {"mmlu": MmluResult, "squad": SquadResult, "squad-score": PredictionScores,
                            "detection": DetectionResult, "loss": LossResult}
