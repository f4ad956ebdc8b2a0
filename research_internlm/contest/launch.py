"""Entry point: starts, or continues, a training run on several workers; scripts/train_msrun.sh calls it.

    bash scripts/train_msrun.sh CONFIG [WORKERS] [--mirror obs://B/P] [--resume obs://B/P] [msrun options]
        [-- run_internlm.py options]

The same command in the same --output_dir continues the run from its last complete checkpoint. Each attempt
has its own folder OUTPUT_DIR/msrun_log/attempt-NNN with all logs and attempt.json: command, environment,
versions, start, end, exit code. msrun's own options (several machines: --worker_num=8 --local_worker_num=4
--master_addr=... --node_rank=...) are passed on; OUTPUT_DIR must then be shared between the machines.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research_internlm import recipe as recipes
from research_internlm import run_internlm
from research_internlm.contest import attempts, mirror_process, preflight, resume
from research_internlm.contest.launch_options import Launch, parse, run_arguments
from research_internlm.contest.mirror_fetch import EmptyMirrorError, fetch
from research_internlm.contest.mirror_index import IDENTITY, Index
from research_internlm.contest.object_store import parse_url
from research_internlm.contest.run_processes import RUN_MARK, end_processes, processes_of, take_lock
from research_internlm.contest.schedule import steps_of
from research_internlm.contest.upload import connect
from research_internlm.dataset_check import check_data, fill_from_data
from research_internlm.errors import USER_ERROR_EXIT_CODE, ToolkitError, run_main
from research_internlm.files import read_json

ROOT = Path(__file__).resolve().parents[2]
_WORKER_ENDED = re.compile(r"Worker process (\d+) exit with exception. Error code: (-?\d+)")
_GRACE_SECONDS = 15  # msrun then still waits for its scheduler, which may take hours to notice


def check(launch: Launch, arguments: argparse.Namespace) -> dict[str, Any]:
    """Holds machine, data, folder and mirror against the run.

    Returns:
        The data's facts, as check_data gives them.

    Raises:
        ToolkitError: Something does not hold; all of it is listed.
    """
    recipe, data = launch.recipe, {}
    device = recipe["context"]["device_target"]
    problems = [*preflight.version_problems(preflight.installed_versions(), device),
                *preflight.device_problems(launch.local_workers, device),
                *preflight.writable_problems(launch.output)]
    problems += preflight.data_problems(lambda: data.update(check_data(recipe, arguments.config)))
    run = None
    if "train_dataset" in data:
        # The workers do the same, so their resolved config can be compared with this recipe.
        problems += preflight.data_problems(lambda: fill_from_data(recipe, data, launch.workers))
        run = Index(recipe, {"data": data, "workers": launch.workers})
    goes_on = run is not None and continues(launch, arguments, data)
    done = resume.find_checkpoints(launch.output / "checkpoint").last if goes_on else 0
    if run is not None:
        rows = data["train_dataset"]["counts"]["out"]
        problems += preflight.data_problems(lambda: problems.extend(preflight.disk_problems(
            recipe, rows, launch.workers, launch.local_workers, done)))
    if done == 0:
        problems += preflight.data_problems(lambda: run_internlm.check_base_weights(recipe))
    if launch.mirror and launch.is_master:
        problems += mirror_process.problems(launch.mirror, run, launch.output, done)
    problems += process_problems(launch)
    if problems:
        raise ToolkitError(f"{len(problems)} problem(s) before the start: "
                           + " ".join(f"({number}) {text}." for number, text in enumerate(problems, 1)))
    return data


def process_problems(launch: Launch) -> list[str]:
    """Processes that are in the way: an earlier launch's, or whatever listens on the port."""
    if left := processes_of(launch.output):
        ids = " ".join(map(str, left))
        return [f"a run in {launch.output} is still going on (processes {ids}): wait for it, or end it with "
                f"kill -9 {ids}"]
    return list(preflight.port_problems(int(launch.msrun["master_port"]))) if launch.is_master else []


def another_run(launch: Launch, data: Mapping[str, Any]) -> list[str]:
    """Settings, data or worker numbers in which the folder's run is not what this command asks for."""
    old = recipes.load_yaml(launch.output / recipes.RESOLVED_CONFIG)
    facts = read_json(launch.output / recipes.RUN_FACTS, "the run's facts")
    return [*resume.differences(old, launch.recipe), *resume.data_differences(facts, data, launch.workers)]


def continues(launch: Launch, arguments: argparse.Namespace, data: Mapping[str, Any]) -> bool:
    """Whether the folder's run goes on; --overwrite replaces another run, but its own only once."""
    if not run_internlm.is_run(launch.output):
        return False
    return not arguments.overwrite or (attempts.were_begun_with_overwrite(launch.output)
                                       and not another_run(launch, data))


def run_msrun(command: Sequence[str], attempt: Path, output: Path, has_scheduler: bool
              ) -> tuple[int, str | None]:
    """Runs msrun to its end, its words passed on and kept.

    A dead worker ends the job: msrun kills the others at once, but then waits for its scheduler. A dead
    scheduler ends it too: msrun does not look after it, and workers that never met wait for hours.

    Args:
        command: msrun and its options.
        attempt: Folder of the logs.
        output: The run's folder.
        has_scheduler: Whether this machine starts the process that introduces the workers to each other.

    Returns:
        Exit code, and what is known of the process that ended first.
    """
    environment = {**os.environ, RUN_MARK: str(output)}
    first, ended, alone = None, threading.Event(), threading.Event()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True, text=True, errors="replace")
    timer = threading.Timer(_GRACE_SECONDS, end_processes, [output])
    if has_scheduler:
        threading.Thread(target=_end_without_scheduler, args=(output, ended, alone), daemon=True).start()
    try:
        with open(attempt / "msrun.log", "w", encoding="utf-8") as log:
            for line in process.stdout:
                print(line, end="", flush=True)
                log.write(line)
                log.flush()
                if first is None and (match := _WORKER_ENDED.search(line)):
                    first = _how_it_ended(*match.groups())
                    timer.start()
        code = process.wait()
        if alone.is_set():
            first = "its scheduler ended (why: scheduler.log), so all workers were ended"
        return code, first
    finally:
        ended.set()
        timer.cancel()
        end_processes(output)
        process.wait()


def _end_without_scheduler(output: Path, ended: threading.Event, alone: threading.Event) -> None:
    """Kills the run once its workers have been without a scheduler for three looks in a row."""
    missing = 0
    while missing < 3:
        if ended.wait(_GRACE_SECONDS / 3):
            return
        without = processes_of(output, "MS_WORKER") and not processes_of(output, "MS_SCHED")
        missing = missing + 1 if without else 0
    alone.set()
    end_processes(output)


def _how_it_ended(process: str, code: str) -> str:
    number = -int(code)
    if number > 0:
        return (f"worker process {process} was killed by {signal.Signals(number).name} (kill, or out of "
                "memory); the others were ended")
    return f"worker process {process} ended with exit code {code}; the others were ended"


def start(launch: Launch, resuming: bool, step: int) -> int:
    """Starts one attempt and records it.

    Args:
        launch: The command.
        resuming: Whether the folder holds this run already.
        step: Step it continues from.
    """
    attempt = attempts.new_attempt(launch.output)
    options = {**launch.msrun, "log_dir": str(attempt)}
    command = ["msrun", *(f"--{name}={value}" for name, value in options.items()),
               str(ROOT / "research_internlm/run_internlm.py"), "--config", launch.config,
               "--use_parallel", str(launch.workers > 1), *launch.run_options]
    if resuming:
        command += ["--resume_training", "True"]
    attempts.record_start(
        attempt, command=shlex.join(["bash", "scripts/train_msrun.sh", *sys.argv[1:]]),
        msrun=shlex.join(command), overwrite=run_arguments(launch).overwrite, from_step=step)
    code, first = 1, None
    try:
        with mirror_process.mirroring(launch.mirror if launch.is_master else None, launch.output, attempt):
            try:
                code, first = run_msrun(command, attempt, launch.output,
                                        launch.is_master and launch.workers > 1)
            finally:
                attempts.record_end(attempt, code)
    except KeyboardInterrupt:
        code, first = 130, "interrupted; all workers were ended"
    return report_failure(launch, attempt, code, first) if code else 0


def report_failure(launch: Launch, attempt: Path, code: int, first: str | None) -> int:
    """Says why an attempt ended and how to go on; msrun's own traceback hides it in a worker's log.

    Returns:
        The exit code: 2 for a user's error, as everywhere.
    """
    errors = sorted({line for log in attempt.glob("*.log") if log.name != mirror_process.LOG
                     for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
                     if line.startswith("error:")})
    for line in errors:
        print(line, file=sys.stderr)
    last = resume.find_checkpoints(launch.output / "checkpoint").last
    print(f"training failed (msrun exit code {code}){': ' + first if first else ''}; logs: {attempt}; the "
          f"same command again continues from step {last}", file=sys.stderr)
    return USER_ERROR_EXIT_CODE if errors else max(code, 1)


def keep_to_oneself(launch: Launch) -> None:
    """Takes the folder's lock, one for each machine of the run.

    Raises:
        ToolkitError: Another launch has it.
    """
    name = ".lock" if launch.is_master else f".lock-{launch.msrun['node_rank']}"
    if not take_lock(launch.output / name):
        raise ToolkitError(f"another launch is at work in {launch.output}: wait for it, or end it, or choose "
                           "another --output_dir")


def make_room(launch: Launch, arguments: argparse.Namespace) -> None:
    """Moves what would be mixed with a new run aside, if the user said so.

    Raises:
        ToolkitError: He did not; these are checkpoints without the run's settings.
    """
    if not arguments.overwrite:
        missing = [name for name in IDENTITY if not (launch.output / name).is_file()]
        raise ToolkitError(f"{launch.output} holds checkpoints but no {' and no '.join(missing)}: put them "
                           "back (a fetch that broke off goes on with the same --resume), choose another "
                           "--output_dir, or pass --overwrite behind -- to move the folder aside")
    print(f"the earlier run is now {attempts.set_aside(launch.output)}", flush=True)
    keep_to_oneself(launch)  # the lock moved with the folder


def go_on(launch: Launch, data: Mapping[str, Any]) -> int:
    """Continues the run in the folder, or says that it is finished and sends what its mirror lacks."""
    found = resume.find_checkpoints(launch.output / "checkpoint")
    for reason in found.broken.values():
        print(f"not used: {reason}", flush=True)
    total = steps_of(launch.recipe, data["train_dataset"]["counts"]["out"], launch.workers).total
    if found.last < total:
        print(f"continuing {launch.output} from step {found.last:,} of {total:,}", flush=True)
        return start(launch, True, found.last)
    print(f"{launch.output} is finished: step {found.last:,} of {total:,}; nothing to train", flush=True)
    if launch.mirror and launch.is_master:
        last = max((launch.output / attempts.LOG_FOLDER).glob("attempt-[0-9]*"), default=launch.output)
        with mirror_process.mirroring(launch.mirror, launch.output, last):
            pass
    return 0


def fetch_from_mirror(launch: Launch) -> None:
    """Brings what is not here from the mirror of --resume; where it is empty, the run begins.

    Raises:
        ToolkitError: It cannot be reached, or holds another run.
    """
    if not launch.is_master:
        if not run_internlm.is_run(launch.output):
            raise ToolkitError(f"{launch.output} holds no run yet, and only node 0 fetches --resume "
                               f"{launch.source}: start this node when node 0 has fetched it")
        return
    if processes_of(launch.output):
        return  # nothing may change under a living run, and `check` refuses it
    bucket, prefix = parse_url(launch.source)
    try:
        fetch(connect(bucket, None), prefix, launch.output, lambda line: print(line, flush=True))
    except EmptyMirrorError as error:
        print(f"nothing to resume from: {error}", flush=True)


def launch_run(launch: Launch) -> int:
    """Checks, then starts or continues the run, or says that it is finished.

    Raises:
        ToolkitError: Something does not hold, or the folder holds another run.
    """
    arguments = run_arguments(launch)
    keep_to_oneself(launch)
    if launch.source:
        fetch_from_mirror(launch)
    data = check(launch, arguments)
    if not continues(launch, arguments, data):
        saved = resume.find_checkpoints(launch.output / "checkpoint").complete
        if saved or run_internlm.is_run(launch.output):
            make_room(launch, arguments)
        return start(launch, False, 0)
    if changed := another_run(launch, data):
        raise ToolkitError(f"{launch.output} holds another run; {len(changed)} difference(s): "
                           f"{'; '.join(changed)}. Choose another --output_dir, or pass --overwrite "
                           "behind -- to move that run aside")
    return go_on(launch, data)


def main() -> int:
    """Runs the entry point."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # a notebook being stopped, a terminal being closed
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    return launch_run(parse(sys.argv[1:], __doc__))


def _interrupt(*_: Any) -> None:
    # Raised here and not by SIGINT, which a shell has a job behind & ignore.
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_main(main)
