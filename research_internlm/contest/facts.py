"""Facts of a run that only the contest needs: its best result, its SQuAD gate and its parameter ratio."""

from __future__ import annotations

from research_internlm.contest import scoring
from research_internlm.model import lora
from research_internlm.runs.results import MmluResult, SquadResult
from research_internlm.runs.run_folder import RunFolder


def best_mmlu(run: RunFolder) -> tuple[str, MmluResult] | None:
    """The tuned model's best multiple-choice result; the rules let the best checkpoint count."""
    return max(run.mmlu_results(base=False).items(), default=None,
               key=lambda item: item[1].overall.accuracy)


def tuned_squad(run: RunFolder) -> tuple[str, SquadResult] | None:
    """The SQuAD result of the weights with the best accuracy, the only one that the gate may use."""
    best = best_mmlu(run)
    same_weights = {name: result for name, result in run.squad_results(base=False).items()
             if best is None or result.checkpoint_sha256 == best[1].checkpoint_sha256}
    return max(same_weights.items(), default=None, key=lambda item: item[0])


def base_squad(run: RunFolder) -> tuple[str, SquadResult] | None:
    """The base model's SQuAD result."""
    return max(run.squad_results(base=True).items(), default=None, key=lambda item: item[0])


def gate(run: RunFolder) -> scoring.Gate | None:
    """The SQuAD gate against the base model's own result, where both were measured."""
    tuned, base = tuned_squad(run), base_squad(run)
    if tuned is None or base is None:
        return None
    return scoring.gate_against_base(scoring.squad_pair(tuned[1]), scoring.squad_pair(base[1]))


def contest_ratio(run: RunFolder) -> float:
    """Low-parameter ratio as the second phase counts it."""
    return scoring.contest_ratio(lora.count_parameters(run.model_config))
