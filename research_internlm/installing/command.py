"""The command line of `bash scripts/setup.sh`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from research_internlm.installing import decision, installation, interpreters, wheels
from research_internlm.installing.environment import Environment
from research_internlm.shared import versions
from research_internlm.shared.errors import ToolkitError

_USAGE = """
variables:
  VENV=DIR     the environment's folder instead of .venv, e.g. one that survives a notebook restart
  PYTHON=FILE  this Python instead of the first suitable one
  WHEELS=DIR   install from a folder of --download alone, without a network
Relative folders start at the project's folder. The same command again repairs what is broken.
"""


def parse_arguments() -> argparse.Namespace:
    """Reads the command line and refuses options that say nothing together."""
    parser = argparse.ArgumentParser("bash scripts/setup.sh", epilog=_USAGE,
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="Makes the environment that all commands run in.")
    parser.add_argument("--own", action="store_true",
                        help="install MindSpore and MindFormers even where a Python has a supported pair")
    parser.add_argument("--pair", metavar="MINDFORMERS", help="one of " + ", ".join(
        f"{pair.mindformers} (MindSpore {pair.mindspore})" for pair in versions.PAIRS))
    parser.add_argument("--download", metavar="DIR", help="only make a wheel folder for WHEELS=DIR elsewhere")
    parser.add_argument("--platform", choices=[f"linux_{name}" for name in interpreters.MACHINES],
                        help="with --download: the other machine's")
    parser.add_argument("--python", choices=["{}.{}".format(*release) for release in versions.PYTHONS],
                        help="with --download: the other machine's Python")
    arguments = parser.parse_args()
    if not arguments.download and (arguments.platform or arguments.python):
        parser.error("--platform and --python go with --download")
    if arguments.download and arguments.own:
        parser.error("--own says nothing to --download")
    return arguments


def main(venv: Environment) -> None:
    """Makes, repairs or confirms the environment, or makes a wheel folder."""
    arguments = parse_arguments()
    pair = decision.pair_named(arguments.pair) if arguments.pair else None
    if arguments.download:
        wheels.download(Path(arguments.download), pair or versions.PAIRS[0], arguments.platform,
                        arguments.python, dict(os.environ))
        return
    request = venv.request(arguments.own, arguments.pair)
    if venv.is_complete(request):
        print(f"Set-up: {venv.folder} is complete ({venv.summary()})")
        return
    if installation.relink(venv, request, os.environ):
        print(f"Set-up: {venv.folder} is complete again ({venv.summary()}): its Python had gone, and "
              "another of the same release has taken its place")
        return
    folder = wheels.open_folder(Path(os.environ["WHEELS"])) if os.environ.get("WHEELS") else None
    if folder and request.pair not in (None, folder.pair.mindformers):
        raise ToolkitError(f"WHEELS={folder.path} holds MindFormers {folder.pair.mindformers}, but "
                           f"--pair {request.pair} was asked for")
    installation.install(venv, request, folder, os.environ)
