"""Malformed inputs through every command's own main: one clear line or a right result, never anything else.

ATTACK_INPUTS sets the number (300 by default), ATTACK_SEED the seed. A failing input is named by its seed,
and `ATTACK_ONLY=SEED` runs it alone and leaves its files in place.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from research_internlm.evaluation import contest_metric
from research_internlm.shared.files import sha256_of
from tests.attacks import sandbox
from tests.attacks.command_lines import make_places, malform
from tests.attacks.mutations import mutate
from tests.attacks.targets import OUTPUT, TARGETS, Target, make_files
from tests.helpers import finished_run

complete_run = finished_run.complete_run  # fixture
INPUTS = int(os.environ.get("ATTACK_INPUTS", "300"))
SEED = int(os.environ.get("ATTACK_SEED", "20261125"))
ONLY = os.environ.get("ATTACK_ONLY")


@pytest.fixture(scope="module")
def valid(tmp_path_factory, root, demo_data, complete_run) -> Iterator[Path]:
    """All valid files; what commands import late and slowly is loaded here once, not in each fork.

    Attacked folders are links to these files: no command may write into a file that it was given.
    """
    import mindspore.mindrecord  # noqa: F401
    import pandas  # noqa: F401

    contest_metric.score_answer("a", "b")
    gc.freeze()  # no fork looks through, and so copies, what is loaded here
    folder = tmp_path_factory.mktemp("attack") / "valid"
    folder.mkdir()
    make_files(folder, root, demo_data / "tokenizer.model", complete_run)
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def contents(folder: Path) -> dict[Path, str]:
    return {path: sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def link_files(valid: Path, folder: Path) -> None:
    """A copy by links. By cp, and removed by rm: Python's own took half of an input's time."""
    subprocess.run(["cp", "-al", valid, folder], check=True)


@pytest.mark.slow
def test_valid_files_give_results(valid, tmp_path):
    for target in TARGETS:
        folder = tmp_path / target.name
        link_files(valid, folder)
        outcome = sandbox.run(target.main, target.argv, folder)
        assert outcome.code == 0, (target.name, outcome)
        assert not list(silent_losses(target, folder)), target.name


@pytest.mark.slow
def test_malformed_inputs(valid, tmp_path):
    failures = []
    seeds = [int(ONLY)] if ONLY else range(SEED, SEED + INPUTS)
    for seed in seeds:
        folder = tmp_path / str(seed)
        failure = attack(valid, folder, random.Random(seed))
        if failure:
            failures.append(f"seed {seed}: {failure}")
            print(failures[-1], flush=True)  # shown at once by pytest -s
        elif not ONLY:
            subprocess.run(["rm", "-rf", folder], check=True)
    assert not failures, f"{len(failures)} of {len(seeds)}:\n" + "\n".join(failures[:40])


def attack(valid: Path, folder: Path, rng: random.Random) -> str | None:
    """Changes one or two files of one command, or its command line, and runs it.

    Returns:
        What was wrong with how it ended, or None.
    """
    target = rng.choice(list(TARGETS))
    link_files(valid, folder)
    argv = target.argv
    if not TARGETS[target] or rng.random() < 0.25:
        make_places(folder)
        argv = malform(argv, rng)
        done = [f"{[word[:80] for word in argv]}"]
    else:
        changed = rng.sample(TARGETS[target], min(len(TARGETS[target]), rng.choice((1, 1, 1, 2))))
        done = [mutate(folder / name, rng) for name in changed]
    outcome = sandbox.run(target.main, argv, folder)
    problems = [outcome.problem] if outcome.problem else []
    problems += [f"raw control characters in {name!r}" for name in ("\x1b", "\u2028", "\x07")
                 if name in outcome.output]
    if outcome.code == 0:
        problems += silent_losses(target, folder)
    else:
        problems += [f"left behind: {path.name}" for path in folder.iterdir()
                     if path.name.startswith((".partial", ".lock")) or path.name == f"{OUTPUT}.json"]
    if not problems:
        return None
    last = outcome.output.strip().splitlines()[-1:] or [""]
    return f"{target.name}, {'; '.join(done)}: {'; '.join(problems)} ({last[0][:160]})"


def numbers_in(value: object) -> list[int]:
    """A count, or those of an object of counts."""
    values = value.values() if isinstance(value, dict) else [value]
    return [number for number in values if isinstance(number, int)]


def silent_losses(target: Target, folder: Path) -> list[str]:
    """Manifests whose counts do not add up: in = out + what is listed."""
    found = []
    for path in [*folder.glob(f"{OUTPUT}*.manifest.json"), *folder.glob(f"{OUTPUT}/*.manifest.json")]:
        counts = json.loads(path.read_text("utf-8")).get("counts") or {}
        listed = [number for key in ("dropped", "too_long", "buffers")
                  for number in numbers_in(counts.get(key))]
        if target.name.startswith(("csv2json", "converter", "doctor-data")):
            made = counts.get("samples", counts["out"])
            if counts["in"] != made + sum(listed):
                found.append(f"{path.name}: {counts} do not add up")
    return found
