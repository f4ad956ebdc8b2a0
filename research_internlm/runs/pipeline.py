"""Which ranks' logged losses are the run's: under pipeline parallelism only the last stage computes one.

MindFormers 1.9.0 says so itself (core/callback/callback.py, `_fix_loss_for_parallel`); the other ranks log 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from research_internlm.recipes.recipe import load_yaml
from research_internlm.runs.loss_lines import Pipeline
from research_internlm.shared.arguments import is_whole
from research_internlm.shared.files import read_json
from research_internlm.shared.run_layout import RESOLVED_CONFIG, RUN_FACTS

if TYPE_CHECKING:
    from research_internlm.runs.worker_logs import RankLog


def mark_ranks_with_loss(run: Path, logs: Mapping[int, RankLog], shared: bool) -> None:
    """Sets `has_loss` of each rank: None for all where it cannot be told whose losses count.

    That is so for a file that ranks share, and where no log of the last stage is among the logs.

    Args:
        run: The run folder or log file.
        logs: Rank -> its log.
        shared: Whether ranks wrote into one file.
    """
    pipeline = next((log.pipeline for log in logs.values() if log.pipeline), None) or _of_config(run)
    if pipeline is None:
        return
    workers = _workers(run) or (len(logs) if sorted(logs) == list(range(len(logs))) else 0)
    valid = pipeline.ranks_with_loss(workers)
    known = not shared and any(log.records for rank, log in logs.items() if rank in valid)
    for rank, log in logs.items():
        log.has_loss = rank in valid if known else None


def _workers(run: Path) -> int | None:
    facts = read_json(run / RUN_FACTS, "run facts") if (run / RUN_FACTS).is_file() else None
    workers = facts.get("workers") if isinstance(facts, Mapping) else None
    return workers if is_whole(workers, 1) else None


def _of_config(run: Path) -> Pipeline | None:
    """The pipeline of a run folder's resolved config, for logs that lack MindFormers' line."""
    resolved = run / RESOLVED_CONFIG
    recipe = load_yaml(resolved) if resolved.is_file() else {}
    parallel = recipe.get("parallel_config")
    stages = parallel.get("pipeline_stage") if isinstance(parallel, Mapping) else None
    return Pipeline(stages) if recipe.get("use_parallel") is True and is_whole(stages, 2) else None
