"""Runs commands in forks of one process that has MindSpore and MindFormers loaded.

Loading them takes about ten seconds of CPU, more than most of these commands. Each command still has a
process of its own, with nothing built or set before it starts. What loading itself must get right (import
order, an entry point's own environment) is tested with commands.run_script, a new process a command.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A command that ran in the tests' own process has set them for itself.
_LOG_FOLDERS = ("LOG_MF_PATH", "LOCAL_DEFAULT_PATH")
# All that is slow to import, and what commands would else read from source again in each fork.
LOADED = [f"research_internlm.{name}" for name in (
    "training.registered", "training.worker", "contest.scoring", "recipes.check", "evaluation.runner",
    "evaluation.tasks", "inference.engine", "inference.kv_cache", "inference.loading",
    "checkpoints.hf_import", "checkpoints.merging")] + ["preprocess.mindrecord.writer"]


def run_warm(script: str, *arguments: object, check: bool = True, place: Path = ROOT
             ) -> subprocess.CompletedProcess:
    """As commands.run_script, without loading MindSpore and MindFormers again; `place` is its folder."""
    words = [script, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        server = _server()
        server.stdin.write(json.dumps({
            "words": words, "place": str(place), "outputs": [str(path) for path in outputs],
            "environment": {name: value for name, value in os.environ.items()
                            if name not in _LOG_FOLDERS}}) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the warm process has ended; its errors are above"
        done = subprocess.CompletedProcess(words, int(answer), *(path.read_text() for path in outputs))
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@functools.cache
def _server() -> subprocess.Popen:
    folder = tempfile.TemporaryDirectory()  # where MindFormers opens its log when it is imported
    server = subprocess.Popen([sys.executable, "-m", __name__], cwd=ROOT, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True,
                              env=os.environ | {"LOG_MF_PATH": folder.name})

    def end() -> None:
        server.communicate()  # the end of its standard input
        folder.cleanup()

    atexit.register(end)
    return server


def main() -> None:
    """Answers each line of standard input, a command, with its exit code; a fork leaves through here."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # only answers go to the pipe
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()  # no fork looks through, and so copies, what is loaded here
    sys.stdout.flush()
    for line in requests:
        child = os.fork()
        if child == 0:
            requests.close()
            answers.close()
            _become(**json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def _become(words: list[str], place: str, outputs: list[str], environment: dict[str, str]) -> None:
    """Does what `python words...` does, in this process."""
    os.chdir(place)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
