"""The launcher's side of a run's mirror: checked before the start, then a process beside the training."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from research_internlm.mirroring.index import Index, RunSettings, index_key, refusal
from research_internlm.mirroring.watch import COMMAND
from research_internlm.shared.errors import USER_ERROR_EXIT_CODE, ToolkitError
from research_internlm.shared.run_layout import MIRROR_LOG
from research_internlm.storage.obs import UnreachableError, connect, parse_url

_SPEAKING = (0, 1, USER_ERROR_EXIT_CODE)  # exit codes with which it has said itself what is safe


def problems(url: str, run: RunSettings | None, folder: Path, last: int) -> Iterator[str]:
    """What would keep a mirror from working; the network may be back later, so it is only warned of.

    Args:
        url: The mirror.
        run: The run, or None where its data is not known.
        folder: The run's folder.
        last: Step of its last complete checkpoint.
    """
    try:
        bucket, prefix = parse_url(url)
        store = connect(bucket, None, patient=False)
        content = store.get(index_key(prefix))
        if content and run and (reason := refusal(Index.decode(content, url), run, last, url, folder)):
            yield f"--mirror: {reason}"
    except UnreachableError as error:
        print(f"warning: --mirror {url}: {error}; training starts, the mirror will try again", flush=True)
    except ToolkitError as error:
        yield f"--mirror {url}: {error}"


@contextlib.contextmanager
def mirroring(url: str | None, folder: Path, attempt: Path) -> Iterator[None]:
    """Runs the mirror beside the training; the end of its standard input tells it that training ended.

    So it also learns when this process is killed. Its last messages are waited for and printed.

    Args:
        url: Where to, or None for no mirror.
        folder: The run's folder.
        attempt: Where the mirror's log goes.
    """
    if url is None:
        yield
        return
    process = _start(url, folder, attempt, subprocess.PIPE)
    try:
        yield
    finally:
        process.stdin.close()
        code = process.wait()
        if code not in _SPEAKING:
            print(f"the mirror {url} died (exit code {code}); another one sends what is left",
                  file=sys.stderr, flush=True)
            code = _start(url, folder, attempt, subprocess.DEVNULL).wait()
        if code:
            print(f"the mirror {url} is not complete (exit code {code}); its log: {attempt / MIRROR_LOG}",
                  file=sys.stderr, flush=True)
        if code not in _SPEAKING:
            print(f"  it died as well: nothing of {folder} is known to be safe but what its log says",
                  file=sys.stderr, flush=True)


def _start(url: str, folder: Path, attempt: Path, stdin: int) -> subprocess.Popen:
    with open(attempt / MIRROR_LOG, "a", encoding="utf-8") as log:
        return subprocess.Popen([sys.executable, str(COMMAND), "push", str(folder), url], stdin=stdin,
                                stderr=log, start_new_session=True)
