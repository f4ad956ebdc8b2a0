"""What must be right before workers are started; every problem is found before any is reported.

Without these checks a launch fails after minutes of compilation on paid NPUs. No MindSpore needed.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from research_internlm import recipes
from research_internlm.model.lora import count_parameters
from research_internlm.planning import memory
from research_internlm.recipes.schedule import plan_from_recipe, steps_from_recipe
from research_internlm.shared.versions import pair_problems, pair_with


def version_problems(versions: Mapping[str, str], device_target: str) -> Iterator[str]:
    """Packages that are missing or of releases that do not belong together.

    Args:
        versions: From `installed_versions`.
        device_target: `CPU` needs no CANN.
    """
    yield from pair_problems(versions)
    pair = pair_with(mindspore=versions.get("mindspore"))
    if device_target == "Ascend" and pair:
        cann = versions.get("cann")
        if cann is None:
            yield (f"no CANN found (compiler/version.info under ASCEND_HOME_PATH): install CANN "
                   f"{pair.cann} and source its set_env.sh")
        elif ".".join(cann.split(".")[:2]) not in pair.accepted_cann:
            yield (f"MindSpore {pair.mindspore} runs on CANN {' or '.join(pair.accepted_cann)}, but {cann} "
                   "is installed")


def device_problems(local_workers: int, device_target: str, device_folder: str | Path = "/dev"
                    ) -> Iterator[str]:
    """Too few NPUs for the workers of this machine."""
    if device_target != "Ascend":
        return
    devices = sorted(path.name for path in Path(device_folder).glob("davinci[0-9]*"))
    chosen = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    visible = len([part for part in chosen.split(",") if part.strip()]) if chosen else len(devices)
    if min(visible, len(devices)) < local_workers:
        yield (f"{local_workers} workers need {local_workers} NPUs, but this machine shows {len(devices)} "
               f"({', '.join(devices) or 'no /dev/davinciN'})"
               + (f" and ASCEND_RT_VISIBLE_DEVICES is {chosen}" if chosen else ""))


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
    full, adapter = memory.checkpoint_bytes(recipe, count_parameters(recipes.model_config(recipe)))
    saves = len([step for step in plan.kept if step > last_step])
    needed = saves * local_workers * (full + adapter)
    output = Path(recipe["output_dir"])
    free = shutil.disk_usage(next(folder for folder in (output, *output.parents) if folder.exists())).free
    if needed > free:
        yield (f"{saves} checkpoints x {local_workers} ranks need about {needed / 1e9:,.1f} GB in "
               f"{recipe['output_dir']}, but {free / 1e9:,.1f} GB are free: use another --output_dir, or "
               "save less (research_internlm/plan.py)")


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
