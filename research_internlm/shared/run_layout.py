"""The layout of a run folder (`--output_dir` of run_internlm.py): the names of its files and folders.

    OUTPUT_DIR/
        resolved_config.yaml, run.json      what the run is: its settings, and the facts of its start
        train_log.jsonl                     loss lines of the training, one JSON object a line
        checkpoint/rank_N/*.ckpt            full checkpoints, one folder a rank
        checkpoint_trainable/rank_N/*.ckpt  adapter-only checkpoints
        msrun_log/attempt-NNN/              logs and attempt.json of each launch
        results*.json, obs_links.json       evaluations and uploads, where report and hand-in look for them
"""

from __future__ import annotations

from pathlib import Path

RESOLVED_CONFIG = "resolved_config.yaml"
RUN_FACTS = "run.json"
IDENTITY = (RUN_FACTS, RESOLVED_CONFIG)  # without both a folder is no run; the config is written last
TRAIN_LOG = "train_log.jsonl"
LOG_FOLDER = "msrun_log"
LINKS = "obs_links.json"  # written by upload.py --record
PREDICTIONS = ".predictions.json"


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run: both its files; one alone is what a kill at the start leaves."""
    return all((folder / name).is_file() for name in IDENTITY)
