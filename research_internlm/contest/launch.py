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
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from research_internlm import recipe as recipes
from research_internlm import run_internlm
from research_internlm.contest import preflight, resume
from research_internlm.contest.schedule import steps_of
from research_internlm.errors import USER_ERROR_EXIT_CODE, ToolkitError, run_main
from research_internlm.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
LOG_FOLDER = "msrun_log"
ATTEMPT = "attempt.json"
RUN_MARK = "INTERNLM_RUN_DIR"  # in the environment of every process of a run, so that leftovers are found
_WORKER_ENDED = re.compile(r"Worker process (\d+) exit with exception. Error code: (-?\d+)")
_GRACE_SECONDS = 15  # msrun then still waits for its scheduler, which may take hours to notice
_ENVIRONMENT = re.compile(r"(MS|ASCEND|HCCL|GLOG|OMP|MINDSPORE|LCCL)_\w+|RANK_\w+|CPU_AFFINITY|GLOG_v"
                          r"|CUDA_VISIBLE_DEVICES|PYTHONPATH|PATH|LD_LIBRARY_PATH|MASTER_PORT")
_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL", re.IGNORECASE)


@dataclass
class Launch:
    """A parsed command line.

    Attributes:
        config: Recipe yaml.
        msrun: msrun's options, name without dashes -> value.
        run_options: What follows `--`, for run_internlm.py.
        mirror: Where to send checkpoints and logs, or None.
        source: Mirror to fetch the run from, or None.
    """

    config: str
    msrun: dict[str, str]
    run_options: list[str]
    mirror: str | None = None
    source: str | None = None
    recipe: recipes.Recipe = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """Workers of the whole run."""
        return int(self.msrun["worker_num"])

    @property
    def local_workers(self) -> int:
        """Workers of this machine."""
        return int(self.msrun["local_worker_num"])

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.recipe["output_dir"])

    @property
    def is_master(self) -> bool:
        """Whether the workers meet on this machine."""
        return self.msrun.get("node_rank", "0") in ("0", "-1")


def parse(argv: Sequence[str]) -> Launch:
    """Reads the command line.

    Raises:
        ToolkitError: A value is missing or is no number.
    """
    parser = argparse.ArgumentParser(prog="scripts/train_msrun.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("config", metavar="CONFIG", help="training recipe, e.g. yaml/lora_finetune.yaml")
    parser.add_argument("workers", nargs="?", metavar="WORKERS", default="4",
                        help="workers of this machine (default: %(default)s)")
    parser.add_argument("--mirror", metavar="URL", help="send checkpoints and logs there while training")
    parser.add_argument("--resume", metavar="URL", help="fetch the run from its mirror, then continue it")
    split = list(argv).index("--") if "--" in argv else len(argv)
    own, run_options = list(argv[:split]), list(argv[split + 1:])
    if len(own) > 1 and not own[1].isdigit():
        own.insert(1, "4")  # msrun's own options may have values that look like a number of workers
    arguments, rest = parser.parse_known_args(own)
    msrun = {"worker_num": arguments.workers, "local_worker_num": arguments.workers,
             "master_port": os.environ.get("MASTER_PORT", "8118"), "join": "True",
             "cluster_time_out": "7200", **dict(_msrun_options(rest))}
    for key in ("worker_num", "local_worker_num", "master_port"):
        if not msrun[key].isdigit() or int(msrun[key]) == 0:
            raise ToolkitError(f"{key} is {msrun[key]!r}, a number above 0 was expected")
    launch = Launch(arguments.config, msrun, run_options, arguments.mirror, arguments.resume)
    launch.recipe = run_internlm.resolve(run_arguments(launch))
    if not launch.recipe.get("output_dir"):
        raise ToolkitError("no --output_dir given behind -- and the recipe names none")
    return launch


def _msrun_options(rest: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = iter(rest)
    for word in words:
        if not word.startswith("--"):
            raise ToolkitError(f"{word!r} is no option of msrun; options of run_internlm.py go behind --")
        name, equals, value = word[2:].partition("=")
        if not equals and (value := next(words, None)) is None:
            raise ToolkitError(f"msrun's --{name} has no value")
        yield name, value


def run_arguments(launch: Launch) -> argparse.Namespace:
    """The command line each worker will parse."""
    return run_internlm.parse_arguments(["--config", launch.config, "--use_parallel",
                                         str(launch.workers > 1), *launch.run_options])


def check(launch: Launch, arguments: argparse.Namespace) -> dict[str, Any]:
    """Holds machine, data and folder against the run.

    Returns:
        The data's facts, as run_internlm.check_data gives them.

    Raises:
        ToolkitError: Something does not hold; all of it is listed.
    """
    recipe, data = launch.recipe, {}
    device = recipe["context"]["device_target"]
    problems = [*preflight.version_problems(preflight.installed_versions(), device),
                *preflight.device_problems(launch.local_workers, device),
                *preflight.writable_problems(launch.output)]
    problems += preflight.data_problems(lambda: data.update(run_internlm.check_data(recipe, arguments)))
    if "train_dataset" in data:
        done = resume.find_checkpoints(launch.output / "checkpoint").last
        rows = data["train_dataset"]["counts"]["out"]
        problems += preflight.data_problems(lambda: problems.extend(preflight.disk_problems(
            recipe, rows, launch.workers, launch.local_workers, done)))
    if left := processes_of(launch.output):
        problems.append(f"a run in {launch.output} is still going on (processes {' '.join(map(str, left))}): "
                        f"wait for it, or end it with kill -9 {' '.join(map(str, left))}")
    elif launch.is_master:
        problems += preflight.port_problems(int(launch.msrun["master_port"]))
    if problems:
        raise ToolkitError(f"{len(problems)} problem(s) before the start: "
                           + " ".join(f"({number}) {text}." for number, text in enumerate(problems, 1)))
    return data


def refuse_another_run(launch: Launch, data: Mapping[str, Any]) -> None:
    """Checks that the run in the folder is the one this command asks for.

    Raises:
        ToolkitError: Settings, data or worker numbers differ; all are listed.
    """
    old = recipes.load_yaml(launch.output / run_internlm.RESOLVED_CONFIG)
    facts = read_json(launch.output / run_internlm.RUN_FACTS, "the run's facts")
    changed = [*resume.differences(old, launch.recipe),
               *resume.data_differences(facts, data, launch.workers)]
    if changed:
        raise ToolkitError(f"{launch.output} holds another run; {len(changed)} difference(s): "
                           f"{'; '.join(changed)}. Choose another --output_dir, or pass --overwrite "
                           "behind -- to move that run aside")


def set_aside(folder: Path) -> Path:
    """Renames an earlier run's folder, so that nothing of it is lost or mixed with the new one."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.earlier-{number}")).exists():
        number += 1
    return folder.rename(target)


def new_attempt(output: Path) -> Path:
    """Makes the log folder of the next attempt."""
    folder = output / LOG_FOLDER
    numbers = [int(path.name.removeprefix("attempt-")) for path in folder.glob("attempt-[0-9]*")]
    attempt = folder / f"attempt-{max(numbers, default=0) + 1:03d}"
    attempt.mkdir(parents=True)
    return attempt


def recorded_environment() -> dict[str, str]:
    """The variables that matter to a run, none of which may hold a secret."""
    return {name: value for name, value in sorted(os.environ.items())
            if _ENVIRONMENT.fullmatch(name) and not _SECRET.search(name)}


def processes_of(output: Path) -> list[int]:
    """Ids of living processes that a launch in this folder started, whoever their parent is now."""
    mark = f"{RUN_MARK}={output}".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return sorted(found)


def end_processes(output: Path) -> None:
    """Kills what msrun left behind: workers have sessions of their own and outlive it."""
    for process in processes_of(output):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def run_msrun(command: Sequence[str], attempt: Path, output: Path) -> tuple[int, str | None]:
    """Runs msrun to its end, its words passed on and kept.

    A dead worker ends the job: msrun kills the others at once, but then waits for its scheduler.

    Returns:
        Exit code, and what is known of the worker that ended first.
    """
    environment = {**os.environ, RUN_MARK: str(output)}
    first = None
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True, text=True, errors="replace")
    timer = threading.Timer(_GRACE_SECONDS, end_processes, [output])
    try:
        with open(attempt / "msrun.log", "w", encoding="utf-8") as log:
            for line in process.stdout:
                print(line, end="", flush=True)
                log.write(line)
                log.flush()
                if first is None and (match := _WORKER_ENDED.search(line)):
                    first = _how_it_ended(*match.groups())
                    timer.start()
        return process.wait(), first
    finally:
        timer.cancel()
        end_processes(output)
        process.wait()


def _how_it_ended(process: str, code: str) -> str:
    number = -int(code)
    if number > 0:
        return (f"worker process {process} was killed by {signal.Signals(number).name} (kill, or out of "
                "memory); the others were ended")
    return f"worker process {process} ended with exit code {code}; the others were ended"


@contextlib.contextmanager
def mirroring(launch: Launch, attempt: Path) -> Iterator[None]:
    """Runs the mirror beside the training; the end of its standard input tells it that training ended.

    So it also learns when this process is killed. Its last words are waited for and go to the terminal.
    """
    if launch.mirror is None:
        yield
        return
    with open(attempt / "mirror.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "research_internlm/contest/mirror.py"), "push", str(launch.output),
             launch.mirror], stdin=subprocess.PIPE, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        process.stdin.close()
        if process.wait() != 0:
            print(f"the mirror {launch.mirror} is not complete (exit code {process.returncode}); its log: "
                  f"{attempt / 'mirror.log'}", file=sys.stderr, flush=True)


def start(launch: Launch, resuming: bool, step: int) -> int:
    """Starts one attempt and records it.

    Args:
        launch: The command.
        resuming: Whether the folder holds this run already.
        step: Step it continues from.
    """
    attempt = new_attempt(launch.output)
    options = {**launch.msrun, "log_dir": str(attempt)}
    command = ["msrun", *(f"--{name}={value}" for name, value in options.items()),
               str(ROOT / "research_internlm/run_internlm.py"), "--config", launch.config,
               "--use_parallel", str(launch.workers > 1), *launch.run_options]
    if resuming:
        command += ["--resume_training", "True"]
    record = {"command": shlex.join(["bash", "scripts/train_msrun.sh", *sys.argv[1:]]),
              "msrun": shlex.join(command),
              "folder": os.getcwd(), "environment": recorded_environment(),
              "versions": preflight.installed_versions(), "from_step": step, "started": _now(), "ended": None,
              "exit_code": None}
    write_json(attempt / ATTEMPT, record)
    code, first = 1, None
    try:
        with mirroring(launch, attempt):
            try:
                code, first = run_msrun(command, attempt, launch.output)
            finally:
                write_json(attempt / ATTEMPT, {**record, "ended": _now(), "exit_code": code})
    except KeyboardInterrupt:
        code, first = 130, "interrupted; all workers were ended"
    return report_failure(launch, attempt, code, first) if code else 0


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def report_failure(launch: Launch, attempt: Path, code: int, first: str | None) -> int:
    """Says why an attempt ended and how to go on; msrun's own traceback hides it in a worker's log.

    Returns:
        The exit code: 2 for a user's error, as everywhere.
    """
    errors = sorted({line for log in attempt.glob("*.log")
                     for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
                     if line.startswith("error:")})
    for line in errors:
        print(line, file=sys.stderr)
    last = resume.find_checkpoints(launch.output / "checkpoint").last
    print(f"training failed (msrun exit code {code}){': ' + first if first else ''}; logs: {attempt}; the "
          f"same command again continues from step {last}", file=sys.stderr)
    return USER_ERROR_EXIT_CODE if errors else max(code, 1)


def launch_run(launch: Launch) -> int:
    """Checks, then starts or continues the run, or says that it is finished.

    Raises:
        ToolkitError: Something does not hold, or the folder holds another run.
    """
    arguments = run_arguments(launch)
    resolved = launch.output / run_internlm.RESOLVED_CONFIG
    if launch.source and not resolved.exists():
        fetched = subprocess.run([sys.executable, str(ROOT / "research_internlm/contest/mirror.py"), "fetch",
                                  launch.source, str(launch.output)], check=False)
        if fetched.returncode:
            return fetched.returncode
    data = check(launch, arguments)
    if not resolved.exists() or arguments.overwrite:
        if resolved.exists():
            print(f"the earlier run is now {set_aside(launch.output)}", flush=True)
        return start(launch, False, 0)
    refuse_another_run(launch, data)
    found = resume.find_checkpoints(launch.output / "checkpoint")
    for reason in found.broken.values():
        print(f"not used: {reason}", flush=True)
    total = steps_of(launch.recipe, data["train_dataset"]["counts"]["out"], launch.workers).total
    if found.last >= total:
        print(f"{launch.output} is finished: step {found.last:,} of {total:,}; nothing to do", flush=True)
        return 0
    print(f"continuing {launch.output} from step {found.last:,} of {total:,}", flush=True)
    return start(launch, True, found.last)


def main() -> int:
    """Runs the entry point."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # a notebook being stopped
    return launch_run(parse(sys.argv[1:]))


if __name__ == "__main__":
    run_main(main)
