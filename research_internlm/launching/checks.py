"""What must be right before workers are started: settings, data, machine, folder, mirror and processes."""

from __future__ import annotations

from collections.abc import Iterator

from research_internlm.launching import machine_checks
from research_internlm.launching.options import Launch
from research_internlm.launching.run_state import RunState
from research_internlm.mirroring import beside_a_run
from research_internlm.mirroring.index import RunSettings
from research_internlm.recipes.data_check import require_unchanged
from research_internlm.runs.saved_steps import last_save
from research_internlm.shared import run_layout, versions
from research_internlm.shared.errors import ToolkitError, added_to
from research_internlm.shared.processes import processes_of
from research_internlm.training import command


def check(launch: Launch, state: RunState) -> None:
    """Checks a launch as a whole.

    Raises:
        ToolkitError: Something is wrong; all of it is listed.
    """
    device = launch.recipe["context"]["device_target"]
    problems = [*machine_checks.version_problems(versions.installed_versions(), device),
                *versions.import_problems(),
                *machine_checks.ascend_problems(launch.local_workers, launch.recipe["context"]),
                *machine_checks.writable_problems(launch.output),
                *state.problems, *folder_problems(launch, state)]
    run = None
    if "train_dataset" in state.data:
        run = RunSettings(launch.recipe, state.data, launch.workers)
        with added_to(problems):
            problems += machine_checks.disk_problems(
                launch.recipe, state.data["train_dataset"].counts.out, launch.workers,
                launch.local_workers, state.last_step)
    for section, fact in state.data.items():
        with added_to(problems):
            require_unchanged(fact.file, f"--{section}")
    if state.last_step == 0:
        problems += command.base_weight_problems(launch.recipe)
    elif run_layout.is_state(last_save(state.checkpoints)):
        with added_to(problems):
            problems += command.state_problems(launch.recipe, with_bytes=launch.is_master)
    if launch.mirror and launch.is_master:
        problems += beside_a_run.problems(launch.mirror, run, launch.output, state.last_step)
    problems = list(dict.fromkeys((*problems, *process_problems(launch))))
    if problems:
        raise ToolkitError(f"{len(problems)} problem(s) before the start: "
                           + " ".join(f"({number}) {text}." for number, text in enumerate(problems, 1)))


def folder_problems(launch: Launch, state: RunState) -> Iterator[str]:
    """What is in the folder and would be mixed with the run asked for; --overwrite moves it aside."""
    if launch.overwrite:
        return
    if state.differences:
        yield (f"{launch.output} holds another run; {len(state.differences)} difference(s): "
               f"{'; '.join(state.differences)}; choose another --output_dir, or pass --overwrite after -- "
               "to move that run aside")
    elif state.missing and state.checkpoints.complete:
        yield (f"{launch.output} holds checkpoints but no {' and no '.join(state.missing)}: put them back "
               "(an interrupted fetch is continued by the same --resume), choose another --output_dir, or "
               "pass --overwrite after -- to move the folder aside")


def process_problems(launch: Launch) -> Iterator[str]:
    """Processes that are in the way: an earlier launch's, or whatever listens on the port."""
    if running := processes_of(launch.output):
        ids = " ".join(map(str, running))
        yield (f"a run in {launch.output} is still running (processes {ids}): wait for it, or end it with "
               f"kill -9 {ids}")
    elif launch.is_master:
        yield from machine_checks.port_problems(int(launch.msrun["master_port"]))
