"""What the output folder of a launch holds, compared with its command: read once, then passed on."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from research_internlm import recipes
from research_internlm.data.manifest import RunData
from research_internlm.launching import machine_checks
from research_internlm.launching.options import Launch
from research_internlm.recipes.data_check import check_data, fill_from_data
from research_internlm.recipes.for_mindformers import set_log_folder
from research_internlm.runs import attempts, same_run
from research_internlm.runs.saved_steps import FoundCheckpoints, find_saves
from research_internlm.shared import run_layout, versions
from research_internlm.shared.errors import added_to
from research_internlm.training import command
from research_internlm.training.preflight import recipe_problems


@dataclass(frozen=True)
class RunState:
    """The run in a folder, checked against a command.

    Attributes:
        data: Facts of the command's data, as check_data gives them; empty where they are not known.
        problems: What is wrong with the command's settings and data.
        missing: Files that are missing for the folder to be a run.
        checkpoints: The full checkpoints and states in the folder, and those that are broken.
        differences: Settings, data and worker numbers in which the run there is not the one asked for; empty
            without a run, and where the data is not known.
        is_same_run: Whether the command continues the run there. --overwrite replaces a run, but its own only
            once: a command that is repeated after every kill would never get on otherwise.
    """

    data: Mapping[str, RunData]
    problems: tuple[str, ...]
    missing: tuple[str, ...]
    checkpoints: FoundCheckpoints
    differences: tuple[str, ...]
    is_same_run: bool

    @property
    def last_step(self) -> int:
        """Step the command continues from; 0 for a new run."""
        return self.checkpoints.last if self.is_same_run else 0

    @property
    def holds_something(self) -> bool:
        """Whether a new run would be mixed with what is there."""
        return not self.missing or bool(self.checkpoints.complete)


def read_state(launch: Launch) -> RunState:
    """Reads settings, data and folder; the recipe is completed with what only the data knows.

    The workers complete theirs in the same way, so their resolved config can be compared with this recipe.
    """
    problems = setting_problems(launch.recipe)
    data: dict[str, RunData] = {}
    with added_to(problems):
        data = check_data(launch.recipe, launch.arguments.config)
    with added_to(problems):
        fill_from_data(launch.recipe, data, launch.workers)
        command.settle_saves(launch.recipe)
    missing = run_layout.missing_identity(launch.output)
    known = not missing and "train_dataset" in data
    differences: list[str] = []
    if known:
        differences = same_run.run_differences(launch.output, launch.recipe, data, launch.workers)
    is_same_run = known and not differences and (
        not launch.overwrite or attempts.started_with_overwrite(launch.output))
    checkpoints = find_saves(launch.output)
    return RunState(data, tuple(problems), tuple(missing), checkpoints, tuple(differences), is_same_run)


def setting_problems(recipe: recipes.Recipe) -> list[str]:
    """What is wrong with the recipe by itself, found by a process of its own.

    The check imports MindSpore. Its 0.8 GB would stay in the launcher for hours, and the variables it sets
    would be inherited by the workers and recorded as the user's.
    """
    if any((*machine_checks.version_problems(versions.installed_versions(), "CPU"),
            *versions.import_problems())):
        return []  # said by the check of the machine; there is nothing to check the recipe against
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send_problems, args=(recipe, sending))
    process.start()
    sending.close()
    try:
        answer = receiving.recv()
    except EOFError:
        answer = "its process died"
    process.join()
    if isinstance(answer, str):
        raise RuntimeError(f"the check of the recipe failed (exit code {process.exitcode}): {answer}")
    return answer


def _send_problems(recipe: recipes.Recipe, sending: Connection) -> None:
    # MindFormers logs while it is imported; the workers import it too and say the same in their logs.
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nothing:
        set_log_folder(Path(folder), always=True)
        for stream in (1, 2):
            os.dup2(nothing.fileno(), stream)
        try:
            sending.send(recipe_problems(recipe))
        except Exception:  # the launcher shows it
            sending.send(traceback.format_exc())
