"""Entry point: rehearses a recipe on this machine's own devices with a tiny random model, in minutes.

    bash scripts/rehearse.sh CONFIG [WORKERS] [-- run_internlm.py options]

    bash scripts/rehearse.sh yaml/lora_finetune.yaml 4

It makes its own data and runs the recipe as it is but for the size of the model: the same kernels, precision,
sink mode, recomputing and msrun. One worker is killed after the first save; the same command then continues.
Losses must be finite and falling, and the last checkpoint the same on all ranks. Without an NPU it runs on
the CPU and says so. Run it in the first minutes of paid hours. Exit code 0 if all passed, else 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from research_internlm.launching import rehearsal
from research_internlm.shared.arguments import program, whole
from research_internlm.shared.errors import run_main


def parse_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the command line: its own arguments, and those of run_internlm.py after `--`."""
    parser = argparse.ArgumentParser(prog=program("scripts/rehearse.sh"), description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("config", metavar="CONFIG", help="training recipe, e.g. yaml/lora_finetune.yaml")
    parser.add_argument("workers", nargs="?", metavar="WORKERS", default=4, type=whole(1),
                        help="workers of this machine (default: %(default)s)")
    parser.add_argument("--output_dir", metavar="D", help="new folder for data, run and logs (default: "
                        "output/rehearsal-TIME)")
    split = argv.index("--") if "--" in argv else len(argv)
    return parser.parse_args(argv[:split]), argv[split + 1:]


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments, options = parse_arguments(sys.argv[1:] if argv is None else argv)
    name = arguments.output_dir or time.strftime("output/rehearsal-%Y%m%d-%H%M%S")
    folder = rehearsal.require_new(Path(name))
    started = time.monotonic()
    prepared = rehearsal.prepare(arguments.config, arguments.workers, options, folder)
    device = "NPU" if prepared.device == "Ascend" else "the CPU (this machine shows no NPU)"
    print(f"rehearsing {arguments.config} on {device}: {prepared.workers} worker(s), {prepared.total} steps, "
          f"a save every {prepared.save_steps}; logs: {folder}", flush=True)
    failed = 0
    for check in rehearsal.rehearse(prepared):
        failed += not check.passed
        verdict = "passed" if check.passed else "FAILED"
        print(f"[{time.monotonic() - started:4.0f} s] {verdict}  {check.name}: {check.seen}", flush=True)
    print(f"rehearsal {'FAILED: ' + str(failed) + ' check(s)' if failed else 'passed'} on {device}, "
          f"{time.monotonic() - started:.0f} s", flush=True)
    if not failed:
        shutil.rmtree(prepared.run / "checkpoint")  # the largest part, and of no use
    return min(failed, 1)


if __name__ == "__main__":
    run_main(main)
