"""Commands under attack with their last step taken away: no network, no worker, no MindSpore.

Everything that reads what a user or another machine may have written is real. Only what would then start (an
object store's answer, msrun, a network) is replaced, in the child that a target runs in.
"""

from __future__ import annotations

import os
import shutil
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from research_internlm import audit, evaluate, launch, mirror, run_internlm, upload
from research_internlm.evaluation import label_losses, runner
from research_internlm.inference import predict
from research_internlm.launching import folder, machine_checks, msrun, run_state
from research_internlm.mirroring import beside_a_run, watch
from research_internlm.shared import versions
from research_internlm.shared.files import sha256_of
from research_internlm.storage.obs import StoredObject
from research_internlm.training import preflight, worker

REMOTE = Path("remote")


class FolderStore:
    """The calls of an ObjectStore that mirror and uploads make, on the folder REMOTE; parts are in memory."""

    def __init__(self, bucket: str, *_: object) -> None:
        self.bucket, self.host = bucket, "folder"
        self._parts: dict[int, bytes] = {}

    def url(self, key: str) -> str:
        return f"https://folder/{key}"

    def _path(self, key: str) -> Path:
        return REMOTE.absolute() / key

    def head(self, key: str) -> StoredObject | None:
        path = self._path(key)
        if not path.is_file():
            return None
        return StoredObject(path.stat().st_size, sha256_of(path))

    def get(self, key: str) -> bytes | None:
        return self._path(key).read_bytes() if self._path(key).is_file() else None

    def put(self, key: str, content: bytes, sha256: str) -> str:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(".arriving").write_bytes(content)
        path.with_name(".arriving").rename(path)  # an object is there whole, or not at all
        return "etag"

    def download(self, key: str, path: Path, size: int) -> None:
        if self._path(key).is_file():
            shutil.copyfile(self._path(key), path)
        else:
            path.touch()

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def pending_upload(self, key: str) -> None:
        return None

    def start_upload(self, key: str, sha256: str) -> str:
        self._parts.clear()
        return key

    def put_part(self, key: str, upload_id: str, number: int, content: bytes) -> str:
        self._parts[number] = content
        return f"etag {number}"

    def stored_parts(self, key: str, upload_id: str) -> dict[int, tuple[int, str]]:
        return {number: (len(content), f"etag {number}") for number, content in self._parts.items()}

    def finish_upload(self, key: str, upload_id: str, etags: dict[int, str]) -> None:
        self.put(key, b"".join(self._parts[number] for number in sorted(etags)), "")

    def abort_uploads(self, key: str) -> None:
        pass


def mirror_main(argv: list[str]) -> int:
    mirror.connect = watch.connect = FolderStore
    return mirror.main(argv)


def upload_main(argv: list[str]) -> int:
    upload.connect = FolderStore
    return upload.main(argv)


def _forget_mindspore() -> None:
    """MindFormers' own part of the recipe check needs it; ours (structure, schedule, data) does not."""
    os.environ |= {"LOG_MF_PATH": "log", "LOCAL_DEFAULT_PATH": "log"}  # the child leaves without cleaning up
    for name in ("research_internlm.recipes.check", "research_internlm.training.registered"):
        module = sys.modules[name] = types.ModuleType(name)
        module.check = module.problems = lambda recipe: []
    versions.require_installed_packages = lambda: None
    for module in (evaluate, audit):
        module.require_installed_packages = versions.require_installed_packages


def launch_main(argv: list[str]) -> int:
    """Up to the moment at which msrun would start."""
    _forget_mindspore()
    run_state.setting_problems = preflight.recipe_problems
    machine_checks.version_problems = lambda *_: []
    folder.connect = beside_a_run.connect = FolderStore
    msrun.run_msrun = lambda *_: (0, None)
    return launch.main(argv)


def train_main(argv: list[str]) -> int:
    """Up to the moment at which a model would be built."""
    _forget_mindspore()
    worker.versions.require_installed_packages = lambda: None
    run_internlm.train = lambda recipe: None
    run_internlm.predict = lambda recipe, data, model_file: predict.read_questions(data)
    return run_internlm.main(argv)


class FakeModel:
    """Answers every prompt with one token."""

    def __init__(self, *_: object) -> None:
        pass

    def generate(self, prompts: Sequence[Sequence[int]], _: str = "") -> list[list[int]]:
        return [[5]] * len(prompts)

    def next_token_scores(self, prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]],
                          _: str = "") -> np.ndarray:
        return np.zeros(np.shape(candidates), np.float32)


def evaluate_main(argv: list[str]) -> int:
    """Questions, prompts and scores are real, the answers are not a model's."""
    _forget_mindspore()
    runner.Engine = FakeModel
    return evaluate.main(argv)


class _PassedError(Exception):
    """All checks passed."""


def audit_main(argv: list[str]) -> int:
    """Up to the moment at which rows would be read."""
    _forget_mindspore()

    def stop(*_: object) -> None:
        raise _PassedError

    label_losses.read_rows = stop
    try:
        return audit.main(argv)
    except _PassedError:
        return 0
