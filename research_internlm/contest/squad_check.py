"""Whether the SQuAD evaluations of a run are the complete ones that the gate asks for.

The number of questions belongs to the SQuAD file. A submission over dev-v1.1 must have its counts; over
another file, as in a rehearsal, base and tuned model must have been asked the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from research_internlm.contest import facts
from research_internlm.contest.report_text import Translate
from research_internlm.evaluation.squad import verdict_line
from research_internlm.runs.results import SquadResult
from research_internlm.runs.run_folder import RunFolder
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import files_below, read_json
from research_internlm.shared.run_layout import PREDICTIONS
from research_internlm.shared.schema import to_json
from research_internlm.shared.staging import is_partial

DEV_SHA256 = "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9"  # dev-v1.1.json
DEV_CONTEST, DEV_OFFICIAL = 2067, 10570  # its first questions of a paragraph, and all its questions
METRICS = ("contest", "official")


def squad_logs(run: RunFolder) -> list[Path]:
    """Logs of SQuAD evaluations: *squad*.log anywhere in the run folder."""
    return [path for path in files_below(run.path, "*squad*.log")
            if path.is_file() and not is_partial(path.relative_to(run.path))]


def predictions_of(run: RunFolder, name: str) -> Path:
    """The predictions beside a result file."""
    return (run.path / name).with_suffix(PREDICTIONS)


def problems(run: RunFolder) -> Iterator[str]:
    """What the SQuAD evaluations lack; one sentence each."""
    tuned, base, best = facts.tuned_squad(run), facts.base_squad(run), facts.best_mmlu(run)
    if best is None:
        yield ("the multiple-choice result after tuning is missing; make it with scripts/evaluate.sh RUN_DIR "
               "mmlu")
    elif best[1].limit is not None:
        yield f"{best[0]} asked only the first {best[1].limit} questions; evaluate without --limit"
    if not run.squad_results(base=False):
        yield "the SQuAD result after tuning is missing; make it with scripts/evaluate.sh RUN_DIR squad"
    elif tuned is None:
        yield (f"no SQuAD result is of the weights of {best[0]}, the best accuracy "
               f"({best[1].checkpoint}, sha256 {best[1].checkpoint_sha256[:12]}); evaluate those with "
               "scripts/evaluate.sh RUN_DIR squad")
    if base is None:
        yield ("the SQuAD result of the base model is missing, so the gate is unknown; make it with "
               "scripts/evaluate.sh RUN_DIR squad on the weights that the run started from")
    if tuned and base:
        yield from _different_questions(tuned, base)
    for is_base in (False, True):
        for name, result in run.squad_results(is_base).items():
            yield from _incomplete(run, name, result)
            if not is_base:
                yield from _unlogged(run, name, result)
    gate = facts.gate(run)
    if gate and not gate.passed:
        yield f"the submission would not count: {gate}"


def _different_questions(tuned: tuple[str, SquadResult], base: tuple[str, SquadResult]) -> Iterator[str]:
    """The gate compares two models, so they must have been asked the same in the same words."""
    for key, read in (("squad_file_sha256", lambda result: result.squad_file_sha256),
                      ("number of contest questions", lambda result: result.contest.total),
                      ("prompt_version", lambda result: result.prompt_version),
                      ("tokenizer_sha256", lambda result: result.tokenizer_sha256)):
        if read(tuned[1]) != read(base[1]):
            yield (f"{key} is {read(tuned[1])} in {tuned[0]} but {read(base[1])} in {base[0]}, so the gate "
                   "compares nothing; evaluate both models with the same SQuAD file and recipe")


def _incomplete(run: RunFolder, name: str, result: SquadResult) -> Iterator[str]:
    if result.limit is not None:
        yield f"{name} asked only the first {result.limit} questions; evaluate without --limit"
    elif result.squad_file_sha256 == DEV_SHA256:
        asked = [result.contest.total, result.official.total]
        if asked not in ([DEV_CONTEST, DEV_OFFICIAL], [DEV_CONTEST, DEV_CONTEST]):
            yield (f"{name} has {asked[0]:,} contest and {asked[1]:,} questions in all, dev-v1.1 has "
                   f"{DEV_CONTEST:,} and {DEV_OFFICIAL:,}; evaluate again")
    missing = max(result.contest.missing, result.official.missing)
    if missing:
        yield (f"{missing:,} of the {result.official.total:,} questions of {name} have no answer; "
               "raise model.model_config.seq_length of the evaluation so that every prompt fits")
    path = predictions_of(run, name)
    if not path.is_file():
        yield f"the predictions of {name} are missing"
        return
    try:
        predictions = read_json(path, "the predictions")
    except ToolkitError as error:
        yield str(error)
        return
    count = len(predictions) if isinstance(predictions, dict) else 0
    if count != result.official.total - result.official.missing:
        yield (f"{path.name} holds {count:,} predictions, {name} was scored over "
               f"{result.official.total:,}; evaluate again")


def _unlogged(run: RunFolder, name: str, result: SquadResult) -> Iterator[str]:
    due = [verdict_line(to_json(result), metric) for metric in METRICS]
    if not any(_holds_lines(path, due) for path in squad_logs(run)):
        yield (f"no *squad*.log in {run.path.name} ends in the verdicts of {name} ({due[0]}, and the "
               "official metric's): keep the evaluation's whole output, as scripts/evaluate.sh does")


def _holds_lines(path: Path, starts: Sequence[str]) -> bool:
    """Whether a log has a line that begins with each of the texts."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        found = {start for line in lines for start in starts if line.startswith(start)}
    return found == set(starts)


def file_lines(run: RunFolder, translate: Translate) -> Iterator[str]:
    """The SQuAD files of the results, for the report."""
    for digest in sorted({result.squad_file_sha256 for base in (False, True)
                          for result in run.squad_results(base).values()}):
        is_dev = digest == DEV_SHA256
        yield translate(f"SQuAD 文件：{'' if is_dev else '不是 '}dev-v1.1.json（sha256 `{digest}`）。",
                        f"SQuAD file: {'' if is_dev else 'not '}dev-v1.1.json (sha256 `{digest}`).")
        yield ""
