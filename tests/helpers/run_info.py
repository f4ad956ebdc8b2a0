"""run.json, attempt.json and manifests of made-up runs, complete as the toolkit writes them."""

from __future__ import annotations

from research_internlm.data.chat_template import PROMPT_VERSION
from research_internlm.data.manifest import Counts, MindRecordManifest, RunData, SamplesPerRow, Tokens
from research_internlm.runs.attempts import Attempt
from research_internlm.runs.run_info import Parameters, RunInfo
from research_internlm.shared.schema import to_json


def manifest(rows, tokens=None, **changes):
    """The manifest of a training file, as JSON."""
    total = 146 * rows if tokens is None else tokens
    return to_json(MindRecordManifest(
        parts=[], tool="convert", inputs={}, tokenizer_sha256="t" * 64, special_ids={"vocab_size": 500},
        prompt_version=PROMPT_VERSION, evaluation_kind="unknown", seq_length=1024, record_length=1025,
        packed=False, counts=Counts(in_=rows + 1, samples=rows, out=rows, dropped={"overlong": 1}),
        dropped=[],
        tokens=Tokens(total=total, supervised=rows, padding=0, longest=300, longest_answer=20, fill=0.1),
        samples_per_row=SamplesPerRow(mean=1.0, max=1))) | changes


def run_info(workers=1, rows=40, tokens=None, data=None, **changes):
    """The run.json of a training, as JSON.

    Args:
        workers: Of the run.
        rows: Of its training file.
        tokens: Of its training file; 146 a row by default.
        data: Changes of what it says of the training file.
        **changes: Of other keys.
    """
    wanted = {"file": "train.mindrecord", "sha256": "1" * 64} | (data or {})
    kept = {key: value for key, value in manifest(rows, tokens).items()
            if key in RunData.__dataclass_fields__}
    return to_json(RunInfo(
        command=["run_internlm.py", "--config", "yaml/lora_finetune.yaml"],
        started="2026-11-23T15:41:35+0000",
        workers=workers, device_target="CPU", seed=0, versions={"mindspore": "2.9.0"},
        load_checkpoint_sha256="base", parameters=parameters(),
        data={"train_dataset": kept | wanted})) | changes


def parameters():
    """The parameter counts of a made-up model."""
    return Parameters(base=10_000, trainable=100, ratio=0.01, lora_cells=2)


def attempt(command="bash scripts/train_msrun.sh", **changes):
    """An attempt.json, as JSON."""
    return to_json(Attempt(command=command, msrun="msrun", overwrite=False, from_step=0, folder=".",
                           environment={}, versions={}, started="2026-11-23T15:41:35+0000")) | changes
