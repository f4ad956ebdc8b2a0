"""What must be right before workers are started; every problem is found before any is reported.

Without these checks a launch fails after minutes of compilation on paid NPUs. No MindSpore needed.
"""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.machine import cann, host, npu_checks, npus, packages
from research_internlm.machine.finding import PROBLEM, WARNING, texts
from research_internlm.model.lora import count_parameters
from research_internlm.planning import memory
from research_internlm.recipes.schedule import plan_from_recipe, steps_from_recipe, writing_workers


def version_problems(versions: Mapping[str, str], device_target: str) -> Iterator[str]:
    """Packages that are missing or of releases that do not belong together.

    Args:
        versions: From `installed_versions`.
        device_target: `CPU` needs no CANN.
    """
    found = [*packages.version_findings(versions)]
    if device_target == "Ascend":
        found += cann.version_findings(versions.get("mindspore"), versions.get("cann"))
    yield from texts(found, PROBLEM)


def ascend_problems(local_workers: int, context: Mapping[str, Any], device_folder: str | Path = "/dev"
                    ) -> list[str]:
    """What of the NPUs, of CANN's environment and of /dev/shm prevents a start; warnings are printed.

    The doctor shows the same findings. A run on a CPU needs none of it.

    Args:
        local_workers: Workers of this machine.
        context: The recipe's section `context`.
        device_folder: Where the NPUs' devices are.
    """
    if context.get("device_target", "Ascend") != "Ascend":
        return []
    found = [*npu_checks.start_findings(npus.read(device_folder), local_workers,
                                        _megabytes(context.get("max_device_memory"))),
             *cann.environment_findings(cann.read()), *host.shm_findings(host.read_shm())]
    for text in texts(found, WARNING):
        print(f"warning: {text}", flush=True)
    return texts(found, PROBLEM)


def _megabytes(size: Any) -> int | None:
    """A size as MindSpore takes it ("58GB"), in MB; None where it is none, which the recipe's check says."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*GB\s*", str(size))
    return int(float(match[1]) * 1024) if match else None


def disk_problems(recipe: recipes.Recipe, rows: int, workers: int, local_workers: int, last_step: int = 0
                  ) -> Iterator[str]:
    """Too little free disk for the checkpoints still to come.

    Args:
        recipe: The resolved recipe.
        rows: Rows of the training file.
        workers: Workers of the whole run.
        local_workers: Those that write to this machine's disk.
        last_step: Step the run continues from.
    """
    steps = steps_from_recipe(recipe, rows, workers)
    plan = plan_from_recipe(recipe, steps)
    sizes = memory.save_bytes(recipe, count_parameters(recipes.model_config(recipe)))
    full, states = (len([step for step in kept if step > last_step])
                    for kept in (plan.kept, plan.kept_states))
    writing = writing_workers(recipe, local_workers)
    needed = writing * sizes.of(full, states)
    output = Path(recipe["output_dir"])
    free = shutil.disk_usage(next(folder for folder in (output, *output.parents) if folder.exists())).free
    if needed > free:
        yield (f"{full} full checkpoints and {states} saves of adapter and optimizer state by {writing} "
               f"rank(s) need about {needed / 1e9:,.1f} GB in {recipe['output_dir']}, but "
               f"{free / 1e9:,.1f} GB are free: use another --output_dir, or save less "
               "(research_internlm/plan.py)")


def writable_problems(folder: str | Path) -> Iterator[str]:
    """An output folder that cannot be made or written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield f"--output_dir {folder} cannot be written to: {error.strerror}"


def port_problems(port: int) -> Iterator[str]:
    """A port for the workers' rendezvous that something else listens on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            yield (f"port {port}, the workers' rendezvous, is not free ({error.strerror}): another run may "
                   "be using it; choose one with --master_port=N or MASTER_PORT=N")
