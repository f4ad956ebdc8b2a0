"""The demo on several seeds: accuracy before and after LoRA, and the time it took on a machine how busy.

    python benchmarks/demo_seeds.py --out DIR [--seeds 1 2 3]

Runs scripts/demo.sh once a seed, each into DIR/N, and prints the table of RESULTS.md. A seed that has its
results there is not run again. The load is the machine's average over the five minutes before the demo's end,
the demo's own of about 2 included.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from research_internlm.shared.errors import run_main
from research_internlm.shared.files import read_json

ROOT = Path(__file__).resolve().parents[1]


def row(results: dict) -> str:
    """A demo's results.json as a row of the table."""
    base, tuned = ([results[name][test]["accuracy_percent"] for test in ("reordered", "held_out")]
                   for name in ("base", "tuned"))
    return (f"| {results['run_seed']} | {base[0]:.1f} | {tuned[0]:.1f} | {results['rise_points']:.1f} "
            f"| {base[1]:.1f} | {tuned[1]:.1f} "
            f"| {'passed' if results['gate_passed'] else 'failed'} "
            f"| {results['seconds']} | {results['load_average']:.1f} |")


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the demos")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(1, 11), help="default: 1 to 10")
    arguments = parser.parse_args(argv)
    print("| seed | base, % | tuned, % | rise | held out: base, % | tuned, % | SQuAD gate | seconds | load |")
    print("|---" * 9 + "|")
    for seed in arguments.seeds:
        folder = arguments.out / str(seed)
        if not (folder / "results.json").exists():
            # It exits with 1 where it showed too little; that is a row of the table like any other.
            subprocess.run(["bash", ROOT / "scripts/demo.sh", "--seed", str(seed), "--out", folder],
                           stdout=subprocess.DEVNULL, check=False)
        print(row(read_json(folder / "results.json", "the demo's results")), flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
