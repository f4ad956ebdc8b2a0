"""Everything that must be right before a run is submitted, credentials aside.

Each check reads its own sources, and the run names the sources that cannot be read, so that one broken file
hides nothing that is wrong elsewhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from research_internlm.contest import facts, learning_rate, report_tables, squad_check
from research_internlm.recipes import schedule
from research_internlm.runs.log_warnings import RECENT
from research_internlm.runs.run_folder import RunFolder, disagreements
from research_internlm.runs.worker_logs import RankLog
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.run_layout import LINKS

_WEIGHT_SUFFIXES = (".ckpt", ".safetensors", ".bin", ".pth", ".pt")
_MILLION = 1_000_000


def problems(run: RunFolder) -> list[str]:
    """Everything that is wrong, each thing once."""
    texts = run.unreadable()
    for check in (checkpoint_problems, log_problems, report_tables.problems_of, agreement_problems,
                  squad_check.problems, weight_problems):
        try:
            texts.extend(check(run))  # what it says before it fails is kept
        except ToolkitError as error:
            texts.append(str(error))
    return list(dict.fromkeys(texts))


def checkpoint_problems(run: RunFolder) -> Iterator[str]:
    """Whether the five of the rules are there."""
    steps = [checkpoint.step for checkpoint in run.checkpoints]
    if schedule.evenly_spaced(steps, run.steps.total, run.steps.sink_size) is None:
        folder = run_layout.rank_dir(run_layout.checkpoint_dir(run.path), 0)
        yield (f"the checkpoints in {run.path.name}/{run.name_of(folder)} (steps "
               f"{', '.join(map(str, steps)) or 'none'}) have no {schedule.REQUIRED_CHECKPOINTS} evenly "
               f"spaced over {run.steps.total} steps; research_internlm/plan.py --write sets them")


def log_problems(run: RunFolder) -> Iterator[str]:
    """Whether the training log is complete and of a training that this config describes."""
    logs, workers = run.readable_logs, run.info.workers
    if logs and (missing := sorted(set(range(workers)) - set(logs))):
        yield f"the training log of rank {', '.join(map(str, missing))} is missing ({workers} workers ran)"
    for rank, log in logs.items():
        last = list(log.records.values())[-RECENT:]
        if last and not any(math.isfinite(record.loss) for record in last):
            yield (f"the last {len(last)} losses in the training log of rank {rank} are not numbers: the "
                   "weights are broken; train again with a lower learning rate or loss scale")
    yield from _rounded_parameters(logs, run.info.parameters.trainable)
    total = run.steps.total
    for rank, log in logs.items():
        yield from _incomplete(rank, log, total)
    yield from learning_rate.peak_problems(run.recipe["lr_schedule"], logs, total)


def _incomplete(rank: int, log: RankLog, total: int) -> Iterator[str]:
    steps = list(log.records)
    if not steps or steps[-1] < total:
        yield f"the training log of rank {rank} ends at step {steps[-1] if steps else 0} of {total}"
    between = min((after - before for before, after in itertools.pairwise(steps)), default=1)
    gaps = [f"{before} to {after}" for before, after in itertools.pairwise([0, *steps])
            if after - before > between]
    if gaps:
        yield (f"the training log of rank {rank} lacks lines between steps {', '.join(gaps)}: an earlier "
               "part was overwritten or is in a file outside the run folder")


def _rounded_parameters(logs: Mapping[int, RankLog], trainable: int) -> Iterator[str]:
    """Logs that state millions only; exact numbers are compared with the other sources' facts."""
    for rank, log in logs.items():
        if log.millions and abs(log.parameters - trainable) >= _MILLION:
            yield (f"trainable is {trainable} in run.json, but the training log of rank {rank} says Network "
                   f"Parameters: {log.parameters // _MILLION} M")


def agreement_problems(run: RunFolder) -> Iterator[str]:
    """Facts that yaml, run.json, data, logs, checkpoints and report state differently."""
    yield from disagreements({**run.stated(), report_tables.REPORT: report_tables.stated_by(run)})


def weight_problems(run: RunFolder) -> Iterator[str]:
    """Whether the weights that were evaluated, and the five of the rules, can be had by anyone."""
    public = {link.sha256: link.file for link in run.links
              if link.public_read and link.file.endswith(_WEIGHT_SUFFIXES)}
    upload = "upload them with scripts/upload_obs.sh --public_read --record"
    if not public:
        yield f"no public link to the weights is recorded in {run.path.name}/{LINKS}; {upload}"
        return
    if len(public) < schedule.REQUIRED_CHECKPOINTS:
        yield (f"{run.path.name}/{LINKS} has public links to {len(public)} weight file(s) "
               f"({', '.join(public.values())}), the rules want {schedule.REQUIRED_CHECKPOINTS} merged "
               f"checkpoints; {upload}")
    for name, result in filter(None, (facts.best_mmlu(run), facts.tuned_squad(run))):
        if result.checkpoint_sha256 not in public:
            yield (f"the weights of {name} ({result.checkpoint}, sha256 "
                   f"{result.checkpoint_sha256[:12]}) are not among the public links in "
                   f"{run.path.name}/{LINKS}; {upload}, or evaluate the weights that are there")
