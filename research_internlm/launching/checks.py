"""What must hold before workers are started: machine, data, folder, mirror and processes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from research_internlm import recipes
from research_internlm.data.manifest import RunData
from research_internlm.launching import machine_checks
from research_internlm.launching.options import Launch
from research_internlm.mirroring import beside_a_run
from research_internlm.mirroring.index import RunSettings
from research_internlm.recipes.data_check import check_data, fill_from_data
from research_internlm.runs import attempts, same_run, saved_steps
from research_internlm.runs.run_info import read_run_info
from research_internlm.shared import run_layout, versions
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.processes import processes_of
from research_internlm.training import command


def check(launch: Launch, arguments: argparse.Namespace) -> dict[str, RunData]:
    """Holds machine, data, folder and mirror against the run.

    Returns:
        The data's facts, as check_data gives them.

    Raises:
        ToolkitError: Something does not hold; all of it is listed.
    """
    recipe, data = launch.recipe, {}
    device = recipe["context"]["device_target"]
    problems = [*machine_checks.version_problems(versions.installed_versions(), device),
                *machine_checks.device_problems(launch.local_workers, device),
                *machine_checks.writable_problems(launch.output)]
    problems += machine_checks.data_problems(lambda: data.update(check_data(recipe, arguments.config)))
    run = None
    if "train_dataset" in data:
        # The workers do the same, so their resolved config can be compared with this recipe.
        problems += machine_checks.data_problems(lambda: fill_from_data(recipe, data, launch.workers))
        run = RunSettings(recipe, data, launch.workers)
    goes_on = run is not None and continues(launch, arguments, data)
    done = saved_steps.find_checkpoints(launch.output / "checkpoint").last if goes_on else 0
    if run is not None:
        rows = data["train_dataset"].counts.out
        problems += machine_checks.data_problems(lambda: problems.extend(machine_checks.disk_problems(
            recipe, rows, launch.workers, launch.local_workers, done)))
    if done == 0:
        problems += machine_checks.data_problems(lambda: command.check_base_weights(recipe))
    if launch.mirror and launch.is_master:
        problems += beside_a_run.problems(launch.mirror, run, launch.output, done)
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
    return list(machine_checks.port_problems(int(launch.msrun["master_port"]))) if launch.is_master else []


def another_run(launch: Launch, data: Mapping[str, RunData]) -> list[str]:
    """Settings, data or worker numbers in which the folder's run is not what this command asks for."""
    old = recipes.load_yaml(launch.output / run_layout.RESOLVED_CONFIG)
    return [*same_run.differences(old, launch.recipe),
            *same_run.data_differences(read_run_info(launch.output), data, launch.workers)]


def continues(launch: Launch, arguments: argparse.Namespace, data: Mapping[str, RunData]) -> bool:
    """Whether the folder's run goes on; --overwrite replaces another run, but its own only once."""
    if not run_layout.is_run(launch.output):
        return False
    return not arguments.overwrite or (attempts.were_begun_with_overwrite(launch.output)
                                       and not another_run(launch, data))
