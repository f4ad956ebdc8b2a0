"""The launcher's command line: its own options, msrun's, and after `--` those of run_internlm.py."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from research_internlm import recipes
from research_internlm.shared.arguments import program, whole
from research_internlm.shared.errors import ToolkitError
from research_internlm.training import command

_MSRUN_PORT = "8118"  # msrun's own default, the same on all machines of a run
_LAST_PORT = 65535


@dataclass(frozen=True)
class Launch:
    """A parsed command line.

    Attributes:
        words: The command line itself.
        msrun: msrun's options, name without dashes -> value.
        run_options: Those of each worker's run_internlm.py.
        arguments: `run_options`, parsed.
        recipe: The resolved recipe.
        mirror: Where to send checkpoints and logs, or None.
        source: Mirror to fetch the run from, or None.
    """

    words: list[str]
    msrun: dict[str, str]
    run_options: list[str]
    arguments: argparse.Namespace
    recipe: recipes.Recipe
    mirror: str | None
    source: str | None

    @property
    def workers(self) -> int:
        """Workers of the whole run."""
        return int(self.msrun["worker_num"])

    @property
    def local_workers(self) -> int:
        """Workers of this machine."""
        return int(self.msrun["local_worker_num"])

    @property
    def overwrite(self) -> bool:
        """Whether --overwrite was given."""
        return self.arguments.overwrite

    @property
    def output(self) -> Path:
        """The run's folder; its real path, so that it is the same however it is spelled."""
        return Path(self.recipe["output_dir"]).resolve()

    @property
    def is_master(self) -> bool:
        """Whether this machine runs the scheduler, the workers' rendezvous."""
        return self.msrun.get("node_rank", "0") in ("0", "-1")


def parse(argv: Sequence[str], description: str) -> Launch:
    """Reads the command line.

    Args:
        argv: Its words.
        description: For --help.

    Raises:
        ToolkitError: A value is missing or is not a number.
    """
    parser = argparse.ArgumentParser(prog=program("scripts/train_msrun.sh"), description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("config", metavar="CONFIG", help="training recipe, e.g. yaml/lora_finetune.yaml")
    parser.add_argument("workers", nargs="?", metavar="WORKERS", default="4",
                        help="workers of this machine (default: %(default)s)")
    parser.add_argument("--mirror", metavar="URL", help="send checkpoints and logs there while training")
    parser.add_argument("--resume", metavar="URL",
                        help="fetch from its mirror what is not here, if there is one yet, then continue")
    split = list(argv).index("--") if "--" in argv else len(argv)
    own, after = list(argv[:split]), list(argv[split + 1:])
    if len(own) > 1 and not own[1].isdigit():
        own.insert(1, "4")  # msrun's own options may have values that look like a number of workers
    arguments, rest = parser.parse_known_args(own)
    options = dict(_msrun_options(rest))
    several_machines = bool(options.keys() & {"master_addr", "node_rank", "worker_num"})
    port = os.environ.get("MASTER_PORT") or (_MSRUN_PORT if several_machines else _free_port())
    msrun = {"worker_num": arguments.workers, "local_worker_num": arguments.workers, "master_port": port,
             "join": "True", "cluster_time_out": "7200", **options}
    _check_numbers(msrun)
    run_options = ["--config", arguments.config, "--use_parallel", str(int(msrun["worker_num"]) > 1), *after]
    run_arguments = command.parse_arguments(run_options)
    recipe = command.resolve(run_arguments)
    if not recipe.get("output_dir"):
        raise ToolkitError("no --output_dir given after -- and the recipe names none")
    return Launch(list(argv), msrun, run_options, run_arguments, recipe, arguments.mirror, arguments.resume)


def _free_port() -> str:
    """A free port: on one machine no other node needs to know it, and two runs never share it."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


def _check_numbers(msrun: dict[str, str]) -> None:
    for key, most, where in (("worker_num", None, "WORKERS"), ("local_worker_num", None, "WORKERS"),
                             ("master_port", _LAST_PORT, "MASTER_PORT=N")):
        try:
            whole(1, most)(msrun[key])
        except argparse.ArgumentTypeError as error:
            raise ToolkitError(f"{key}: {error}; give it as {where} or --{key}=N") from error


def _msrun_options(rest: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = iter(rest)
    for word in words:
        if not word.startswith("--"):
            raise ToolkitError(f"{word!r} is not an option of msrun; options of run_internlm.py go after --")
        name, equals, value = word[2:].partition("=")
        if not equals and (value := next(words, None)) is None:
            raise ToolkitError(f"msrun's --{name} has no value")
        yield name, value
