"""The options of those sub-commands of weights.py that take an adapter."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_adapter_commands(command_of: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Adds merge, to-peft and from-peft.

    Args:
        command_of: Makes a sub-command of a name and a help text.
    """
    command = command_of("merge", "fold an adapter into its base weights; the scaling is the run's")
    command.add_argument("--base", type=Path, required=True, metavar="F", help="the weights the run started "
                         "from (.ckpt or .safetensors)")
    command.add_argument("--adapter", type=Path, required=True, metavar="F", help="the adapter inside its "
                         "run's folder, e.g. RUN/checkpoint_trainable/rank_0/x.ckpt, or a full checkpoint")
    command.add_argument("--output", type=Path, required=True, metavar="F", help="merged weights; the suffix "
                         "says the format")
    command = command_of("to-peft", "export an adapter for PEFT, to lay over the base of to-hf")
    command.add_argument("adapter", type=Path, help="the adapter inside its run's folder")
    command.add_argument("output", type=Path, help="folder to make")
    command.add_argument("--base_model", metavar="NAME_OR_PATH", help="the base as PEFT loads it: a name "
                         "on a hub, or the folder of to-hf (default: none, and PEFT must be given the base)")
    command = command_of("from-peft", "an adapter of PEFT or XTuner to one that merge, chat and serve take")
    command.add_argument("adapter", type=Path, metavar="PEFT_DIR", help="folder with adapter_config.json and "
                         "adapter_model.safetensors or .bin (.bin needs torch)")
    command.add_argument("output", type=Path, metavar="OUT", help="folder to make; the adapter is "
                         "OUT/adapter.safetensors")
    command.add_argument("--base", type=Path, required=True, metavar="F", help="the adapter's base, as "
                         "from-hf wrote it")
