"""OpenXLab through the program of its package, which lives in an environment of its own.

The package (openxlab 0.1.3) pins setuptools, requests and rich to old releases, so it cannot be installed
beside the toolkit. Its program prints `Error: ...` and ends with exit code 0, and its listing names a file
from the moment it is announced. So what was sent is what the program says line by line it has uploaded; that
is noted on this machine with the file's sha256, and the listing must then name it.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from research_internlm.publishing import metafile
from research_internlm.publishing.contents import Item
from research_internlm.publishing.hub import AGAIN, Remote, require_private, secret, without
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, write_json

PROGRAM, ACCESS_KEY, SECRET_KEY = "OPENXLAB_PROGRAM", "OPENXLAB_AK", "OPENXLAB_SK"
_HUB, _SENT = "OpenXLab", "Successfully uploaded "
_BAR = re.compile(r"\d%\|")  # of tqdm
_INSTALL = ("make an environment for it: python3 -m venv ~/openxlab && ~/openxlab/bin/pip install "
            f"openxlab==0.1.3 && export {PROGRAM}=~/openxlab/bin/openxlab")


def find_program() -> Path:
    """The openxlab program: $OPENXLAB_PROGRAM, or `openxlab` on the PATH.

    Raises:
        ToolkitError: There is none.
    """
    named = os.environ.get(PROGRAM)
    found = shutil.which(os.path.expanduser(named) if named else "openxlab")
    if found is None:
        raise ToolkitError(f"the program {named or 'openxlab'} of OpenXLab's package is not there; "
                           f"{_INSTALL}")
    return Path(found).absolute()


class OpenXLab:
    """A model repository.

    Args:
        repo: USER/NAME; the owner is the account of the keys, whatever USER says.
        licence: For metafile.yml.
        datasets: What the model was scored on, for metafile.yml.
        place: A folder for this call, in which the files get the names they have in the repository.
    """

    def __init__(self, repo: str, licence: str, datasets: Sequence[str], place: Path) -> None:
        self._program, self._repo, self._licence, self._datasets = find_program(), repo, licence, datasets
        keys = "openxlab.org.cn (account, keys)"
        self._secrets = [secret(name, _HUB, keys) for name in (ACCESS_KEY, SECRET_KEY)]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = sha256(repo.encode()).hexdigest()[:16]
        self._notes = cache / "research_internlm" / "openxlab" / f"{name}.json"
        self._place = place
        # A new home for each call: the package goes on with a broken upload by the file's name alone, and
        # with the bytes from the file's start on, so what it would complete is mixed or damaged.
        self._home = place / ".home"
        self._exists = False

    def open(self, private: bool) -> bool:
        """See Hub. The program makes a repository as it sends the first files."""
        self._private = private
        self._exists = self._models() is not None
        if self._exists and private:
            require_private(_HUB, self._repo, self._noted()["private"] or None)
        return not self._exists

    def listing(self) -> dict[str, Remote]:
        """See Hub. Sizes are not told; the sha256 is that of what was sent from this machine."""
        sent = self._noted()["sent"]
        return {name: Remote(None, sent.get(name, "of a file that this machine has not sent"))
                for name in self._models() or ()}

    def send(self, items: Sequence[Item]) -> None:
        """See Hub."""
        for item in items:
            (self._place / item.name).symlink_to(item.path.absolute())
        source = self._place / metafile.NAME
        meta = metafile.build(self._repo, self._licence, items, self._datasets)
        source.write_text(metafile.text(meta), encoding="ascii")
        arguments = ["upload"] if self._exists else ["create", *(["-prt", "true"] if self._private else [])]
        notes = self._noted()
        if not self._exists:
            notes["private"] = self._private
        said = self._run(*arguments, "-r", self._repo, "-s", source.name)
        done = said.count(_SENT)
        # It sends in the order of the metafile.
        notes["sent"] |= {item.name: item.sha256 for item in items[:done]}
        write_json(self._notes, notes)
        if done < len(items):
            raise ToolkitError(f"{_HUB}: {done} of {len(items)} files were sent: {self._reason(said)}; "
                               f"{AGAIN}")

    def _models(self) -> list[str] | None:
        """Names of the files that the hub knows of; None where there is no such repository."""
        said = self._run("list", "-r", self._repo)
        for line in said.splitlines():
            if line.startswith("{"):
                try:
                    return [model["weightName"] for model in ast.literal_eval(line)["models"]]
                except (ValueError, SyntaxError, LookupError, TypeError):
                    break
        # What the server itself answers; broken connections and refused keys read otherwise.
        if not _refused(said) and re.search(r"^Error: Query models error:", said, re.MULTILINE):
            return None
        raise ToolkitError(f"{_HUB}: cannot list {self._repo}: {self._reason(said)}; check {ACCESS_KEY}, "
                           f"{SECRET_KEY} and the connection, then {AGAIN}")

    def _reason(self, said: str) -> str:
        """What the program says went wrong, in one line and without the keys."""
        if _refused(said):
            return "the keys were refused"
        lines = [line for line in said.splitlines()
                 if re.match(r"(\w+\.)*\w*(Error|Exception|Timeout)\b", line)]
        return without(self._secrets, (lines or said.splitlines() or ["it said nothing"])[-1])

    def _run(self, *arguments: str) -> str:
        """Runs the program; what it printed, its progress bars left out, which are shown."""
        self._home.mkdir(exist_ok=True, mode=0o700)
        # The program can call the first pip of the PATH to renew itself: it must find its own.
        environment = {**os.environ, "HOME": str(self._home), "PYTHONUNBUFFERED": "1",
                       "PYTHONIOENCODING": "utf-8",
                       "PATH": os.pathsep.join([str(self._program.parent), os.environ.get("PATH", "")])}
        environment.pop("PYTHONPATH", None)
        said = []
        try:
            with subprocess.Popen([self._program, "model", *arguments], cwd=self._place, env=environment,
                                  text=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
                for line in process.stdout:  # a bar's carriage returns end lines too
                    if _BAR.search(line) and _SENT not in line:
                        if sys.stderr.isatty():
                            print(f"\r{line.rstrip()}", end="", file=sys.stderr)
                    else:
                        said.append(line)
        except OSError as error:
            raise ToolkitError(f"{self._program} cannot be started: {error.strerror}; {_INSTALL}") from None
        return "".join(said)

    def _noted(self) -> dict:
        if not self._notes.exists():
            return {"sent": {}, "private": False}
        return read_json(self._notes, "the notes on what was sent")


def _refused(said: str) -> bool:
    """Whether the program got no session for the keys; it warns, and goes on without one."""
    return re.search(r"^warning: (call|Local) ", said, re.MULTILINE) is not None
