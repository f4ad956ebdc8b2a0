"""Commands killed at uniform moments: old results or new ones under the final names; the next run mends it.

ATTACK_KILLS sets the number (20 by default), ATTACK_SEED the seed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tqdm import tqdm

from research_internlm import upload
from research_internlm.shared.staging import is_partial
from tests.attacks import sandbox, stand_ins
from tests.attacks.targets import TARGETS, make_files
from tests.helpers import finished_run, object_server

complete_run = finished_run.complete_run  # fixtures
bucket, proxy = object_server.bucket, object_server.proxy
KILLS = int(os.environ.get("ATTACK_KILLS", "20"))
SEED = int(os.environ.get("ATTACK_SEED", "20261125"))
OF_A_RUN = re.compile(rb'run\d+/|"\w*seconds": [\d.e-]+')  # prefix of an upload, durations


@dataclass(frozen=True)
class Victim:
    """A command that is killed.

    Attributes:
        name: For the report.
        main: Its main.
        argv: Its arguments, relative to the folder.
        older: Arguments instead, or added, that give other results under the same names.
        outputs: Its results, files and folders.
        overwrites: Whether it asks for --overwrite where results are.
    """

    name: str
    main: Callable[[list[str]], int | None]
    argv: str
    older: str
    outputs: tuple[str, ...]
    overwrites: bool = True


@dataclass
class Prepared:
    """A victim's folders and what to expect of it; states are {final name: sha256}."""

    fresh: Path
    before: Path
    old: dict[str, str]
    new: dict[str, str]
    seconds: float


def of_target(name: str, older: str, *outputs: str, overwrites: bool = True) -> Victim:
    target = next(target for target in TARGETS if target.name == name)
    argv = " ".join(target.argv).replace(" --overwrite", "")
    return Victim(name, target.main, argv, older, outputs, overwrites)


def with_manifests(*names: str) -> tuple[str, ...]:
    return (*names, *(f"{name}.manifest.json" for name in names))


PARTS = [f"out/{part}_alpaca_format.json" for part in ("train", "valid", "test")]
SPLITS = [f"out/{split}_detection.json" for split in ("train", "valid", "test")]
VICTIMS = (
    of_target("csv2json", "--seed 7", *with_manifests("out.json")),
    of_target("data_preprocess", "--seed 7", *with_manifests(*PARTS)),
    of_target("converter", "--seq_length 127", "out.mindrecord.db", *with_manifests("out.mindrecord")),
    of_target("squad-score", "--predictions other.json", "out.json"),
    of_target("answers", "", "out.json"),
    of_target("from-hf", "--dtype fp16", *with_manifests("out.ckpt")),
    of_target("merge", "", *with_manifests("out.ckpt")),
    of_target("to-hf", "model.model_config.theta=5", "out"),
    of_target("to-peft", "", "out"),
    of_target("from-peft", "", "out"),
    of_target("doctor-data", "", "out.mindrecord.db", *with_manifests("out.mindrecord")),
    of_target("report", "--lang zh", "finished/analysis", *with_manifests("finished/report.md")),
    of_target("submit", "", "out/t.zip"),
    Victim("upload", upload.main, "base.ckpt obs://BUCKET/runKILL --record links.json", "",
           ("links.json",), overwrites=False),
    of_target("detection-csv2json", "--seed 7", "out/removed.jsonl", *with_manifests(*SPLITS)),
    of_target("detection-score", "--predictions other.json", "out.json"),
    of_target("lengths", "", "out.json"),
    of_target("evaluate mmlu", "--limit 2", "out.json"),
    # At the lowest priority on a busy machine the target's five seconds are too few.
    Victim("mirror push", stand_ins.mirror_main, "push finished obs://bucket/run --finish_within 300", "",
           ("remote",), overwrites=False),
    of_target("mirror fetch", "", "fetched", overwrites=False),
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory, root, demo_data, complete_run) -> Path:
    """The files that the commands read."""
    folder = tmp_path_factory.mktemp("kill") / "valid"
    folder.mkdir()
    make_files(folder, root, demo_data / "tokenizer.model", complete_run)
    (folder / "other.json").write_text(json.dumps({"0": "red"}))
    return folder


@pytest.fixture(scope="module")
def loaded() -> None:
    """What takes longest to import is imported before the forks."""
    # tqdm's own lock is one semaphore for all forks: a killed one that holds it would stop all later ones.
    tqdm.set_lock(threading.RLock())
    import mindspore.mindrecord  # noqa: F401
    import obs  # noqa: F401
    from matplotlib.figure import Figure  # noqa: F401


@pytest.mark.slow
def test_kills(valid, loaded, bucket, tmp_path):
    rng = random.Random(SEED)
    prepared: dict[str, Prepared] = {}
    failures = []
    for number in range(KILLS):
        victim = VICTIMS[number % len(VICTIMS)]
        if victim.name not in prepared:
            prepared[victim.name] = prepare(victim, valid, tmp_path / victim.name, bucket.name)
        there_before, moment = rng.random() < 0.5, rng.random()
        place = tmp_path / "place"
        failure = attack(victim, prepared[victim.name], there_before, moment, place,
                         (bucket.name, str(number)))
        if failure:
            failures.append(f"kill {number}, {victim.name} at {moment:.3f}"
                            f"{' over old results' if there_before else ''}: {failure}")
        shutil.rmtree(place)
    assert not failures, f"{len(failures)} of {KILLS}:\n" + "\n".join(failures[:40])


def prepare(victim: Victim, valid: Path, folder: Path, bucket_name: str) -> Prepared:
    """Makes old and new results undisturbed."""
    fresh, before = folder / "fresh", folder / "before"
    shutil.copytree(valid, fresh, symlinks=True)
    if victim.name == "report":
        for output in victim.outputs:
            shutil.rmtree(fresh / output) if (fresh / output).is_dir() else (fresh / output).unlink()
    words = words_of(victim, bucket_name, "0")
    shutil.copytree(fresh, before, symlinks=True)
    if victim.older:
        run_undisturbed(victim, [*words, *victim.older.split()], before)
    elif victim.name == "upload":  # a record is added to, so there is always an old one
        run_undisturbed(victim, ["base.safetensors", *words[1:]], before)
        fresh = before
    shutil.copytree(fresh, folder / "new", symlinks=True)
    old = state_of(before, victim)
    seconds = run_undisturbed(victim, words, folder / "new")
    if not old:  # the same command gives the same bytes: as old as new
        before, old = folder / "new", state_of(folder / "new", victim)
    return Prepared(fresh, before, old, state_of(folder / "new", victim), seconds)


def run_undisturbed(victim: Victim, words: list[str], folder: Path) -> float:
    """Runs a command; returns its seconds."""
    started = time.monotonic()
    outcome = sandbox.run(victim.main, words, folder)
    assert outcome.code == 0, (victim.name, outcome)
    return time.monotonic() - started


def words_of(victim: Victim, bucket_name: str, kill: str) -> list[str]:
    return victim.argv.replace("BUCKET", bucket_name).replace("KILL", kill).split()


def attack(victim: Victim, prepared: Prepared, there_before: bool, moment: float, place: Path,
           bucket_and_kill: tuple[str, str]) -> str | None:
    """Kills a command and runs it again; returns what was wrong."""
    shutil.copytree(prepared.before if there_before else prepared.fresh, place, symlinks=True)
    words = words_of(victim, *bucket_and_kill)
    if there_before and victim.overwrites:
        words.append("--overwrite")
    child = sandbox.start(victim.main, words, place)
    time.sleep(moment * prepared.seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    state = state_of(place, victim)
    if not any(state.items() <= whole.items() for whole in (prepared.old, prepared.new)):
        return f"a mixture: {sorted(state)}"
    outcome = sandbox.run(victim.main, words, place)
    if outcome.problem:
        return outcome.problem + outcome.output[-300:]
    if outcome.code and not (state == prepared.new and "exists already" in outcome.output):
        return f"the same command again: {outcome.output[-300:]}"
    if (state := state_of(place, victim)) != prepared.new:
        return f"other results: {sorted(state.items() ^ prepared.new.items())}"
    left = [str(path.relative_to(place)) for path in place.rglob("*") if is_partial(path.relative_to(place))
            or path.name.endswith(".without_manifest")]
    return f"left behind: {left}" if left else None


def state_of(folder: Path, victim: Victim) -> dict[str, str]:
    """Final names -> sha256 of what a reader finds there, without what differs between equal runs."""
    found = {}
    for output in victim.outputs:
        path = folder / output
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not is_partial(file.relative_to(folder)):
                content = OF_A_RUN.sub(b"", file.read_bytes())
                found[file.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found
