"""A run's data: its manifests are checked against the recipe, and the recipe is told what only they know.

No MindSpore needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from research_internlm import recipes
from research_internlm.data.chat_template import PROMPT_VERSION, prompt_version
from research_internlm.data.families import END_MARKERS
from research_internlm.data.items import WORDINGS
from research_internlm.data.manifest import MindRecordManifest, RunData, read_mindrecord_manifest
from research_internlm.data.rows import record_length
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path, require_file, sha256_of

_CONVERT = "preprocess/alpaca_data_preprocess_v1.py"


def check_mindrecord(path: str | os.PathLike, row_length: int, what: str, config: str | os.PathLike
                     ) -> MindRecordManifest:
    """Checks that a MindRecord is whole and was made for this run.

    A file without a manifest (upstream's converter writes none) is refused: its row length and tokenizer
    cannot be seen from outside, and a wrong one costs a compile on paid hours or, worse, trains.

    Args:
        path: The file, or the common name of its partitions (`train.mindrecord` of `train.mindrecord0` ...).
        row_length: Tokens per row that the run needs.
        what: Its name to the user, e.g. `--train_dataset`.
        config: The recipe, for the message.

    Returns:
        The manifest.

    Raises:
        ToolkitError: The manifest is not valid, a part is missing or has another size, or the rows, the
            prompt or the format differ.
    """
    path = Path(path)
    manifest = read_mindrecord_manifest(path)
    if manifest is None:
        require_file(path, what, f"{_CONVERT} makes it")
        raise ToolkitError(f"{what} {path} has no manifest {manifest_path(path).name} beside it, so its "
                           f"row length and tokenizer are unknown; convert the json again with {_CONVERT}")
    if all(part.file.endswith(".db") for part in manifest.parts):
        raise ToolkitError(f"the manifest of {path} lists no MindRecord file; rerun {_CONVERT}")
    for part in manifest.parts:
        file = require_file(path.with_name(part.file), f"{what}'s part", "copy .mindrecord and .db files "
                            f"together, or convert again with {_CONVERT}")
        if file.stat().st_size != part.bytes:
            raise ToolkitError(f"{file} has {file.stat().st_size} bytes, its manifest says {part.bytes}: "
                               f"it was cut or replaced; copy it again or rerun {_CONVERT}")
    if manifest.record_length != row_length:
        raise ToolkitError(
            f"{path.name} holds {manifest.record_length}-token rows (--seq_length "
            f"{manifest.seq_length}), but {config} needs {row_length}-token rows for {what}: rerun "
            f"{_CONVERT} with --seq_length {row_length - 1}, or change model.model_config.seq_length")
    if manifest.prompt_version not in map(prompt_version, END_MARKERS):
        raise ToolkitError(f"{path.name} was made with prompt version {manifest.prompt_version}, the "
                           f"toolkit now renders {PROMPT_VERSION}: rerun {_CONVERT}")
    if old := [wording for wording in manifest.wordings if wording not in WORDINGS]:
        raise ToolkitError(f"{path.name} holds questions in the wording {', '.join(old)}, the toolkit's are "
                           f"{', '.join(WORDINGS)}: make the json again as the README says, then rerun "
                           f"{_CONVERT}")
    return manifest


def require_unchanged(path: str | os.PathLike, what: str) -> None:
    """Checks the bytes of a MindRecord against the sha256 of each part in its manifest.

    Takes about a second a gigabyte. MindSpore itself trains on flipped bits without a word, and other damage
    ends it with a traceback or an abort.

    Args:
        path: A data set that check_mindrecord accepts.
        what: Its name to the user, e.g. `--train_dataset`.

    Raises:
        ToolkitError: Parts are damaged; all are named.
    """
    manifest = read_mindrecord_manifest(path)
    parts = manifest.parts if manifest else []
    with tqdm(total=sum(part.bytes for part in parts), desc=f"checking {Path(path).name}", unit="B",
              unit_scale=True, delay=2) as bar:
        damaged = [part.file for part in parts
                   if sha256_of(Path(path).with_name(part.file), bar.update) != part.sha256]
    if damaged:
        raise ToolkitError(f"{what}: {', '.join(damaged)} in {Path(path).parent} changed since {_CONVERT} "
                           "wrote it (the sha256 is not the manifest's): copy it again, or convert again")


def mindrecord_files(path: str | os.PathLike) -> list[str]:
    """The MindRecord files of a name: itself, or its partitions, without the .db files.

    Raises:
        ToolkitError: There is no manifest, or it is not valid.
    """
    manifest = read_mindrecord_manifest(path)
    if manifest is None:
        raise ToolkitError(f"{path} has no manifest; rerun {_CONVERT}")
    return [str(Path(path).with_name(part.file)) for part in manifest.parts
            if not part.file.endswith(".db")]


def check_data(recipe: recipes.Recipe, config: str | os.PathLike) -> dict[str, RunData]:
    """Checks the MindRecord manifests of a run against its resolved config.

    Args:
        recipe: The resolved recipe.
        config: The file it comes from, for messages.

    Returns:
        `train_dataset` and `eval_dataset`, as far as the run reads them: what run.json keeps of their
        manifests.

    Raises:
        ToolkitError: A file is missing, or was made for another seq_length or vocabulary.
    """
    model_config = recipes.model_config(recipe)
    seq_length = model_config["seq_length"]
    wanted = {"train_dataset": record_length(seq_length)} if recipe["run_mode"] == "finetune" else {}
    if recipe["run_mode"] == "eval" or recipe.get("do_eval"):
        wanted["eval_dataset"] = seq_length
    facts = {}
    for section, row_length in wanted.items():
        path = recipe[section]["data_loader"]["dataset_dir"]
        if not path:
            raise ToolkitError(f"no --{section} given and {config} names none"
                               + ("; pass do_eval=False to train without it" if len(wanted) > 1 else ""))
        manifest = check_mindrecord(path, row_length, f"--{section}", config)
        vocab_size = manifest.special_ids["vocab_size"]
        if vocab_size != model_config["vocab_size"]:
            raise ToolkitError(
                f"{path} was made with a vocabulary of {vocab_size} pieces, but the model has "
                f"vocab_size {model_config['vocab_size']}: convert again with the model's tokenizer, or "
                f"set model.model_config.vocab_size={vocab_size}")
        if manifest.packed and not model_config.get("packed"):
            raise ToolkitError(
                f"{path} is packed (several samples a row), but model.model_config.packed is "
                f"{model_config.get('packed', False)}, so samples would read each other: use "
                "yaml/lora_finetune_packed.yaml, or convert again without --pack")
        if section == "train_dataset" and model_config.get("packed") and not manifest.packed:
            raise ToolkitError(
                f"{path} has one sample a row, but model.model_config.packed is True, so an update would see "
                "fewer samples than the recipe plans: convert again with --pack, or use "
                "yaml/lora_finetune.yaml")
        facts[section] = RunData.of(path, manifest)
    tokenizers = {fact.tokenizer_sha256 for fact in facts.values()}
    if len(tokenizers) > 1:
        raise ToolkitError("--train_dataset and --eval_dataset were made with different tokenizers; "
                           "convert one of them again")
    model_file = (recipes.callback(recipe, "AnswerMonitor") or {}).get("model_file")
    if model_file and tokenizers and sha256_of(require_file(model_file, "--model_file")) not in tokenizers:
        raise ToolkitError(f"--model_file {model_file} is not the tokenizer that the data was made with; "
                           "AnswerMonitor needs that one")
    return facts


def fill_from_data(recipe: recipes.Recipe, data: Mapping[str, RunData], workers: int) -> None:
    """Puts into the recipe what only the data knows: its files, its mean row, and most labels in a row.

    Args:
        recipe: The resolved recipe, changed in place.
        data: From `check_data`.
        workers: Workers of the run.

    Raises:
        ToolkitError: The recipe's labels_per_row would leave labels out.
    """
    for section, fact in data.items():
        # MindData finds the other partitions of a data set by itself when given the first.
        recipe[section]["data_loader"]["dataset_dir"] = mindrecord_files(fact.file)[0]
    if "train_dataset" in data:
        most, config = data["train_dataset"].tokens.longest_answer, recipes.model_config(recipe)
        if config.get("labels_per_row") is None:
            config["labels_per_row"] = most
        if 0 < config["labels_per_row"] < most:
            raise ToolkitError(f"model.model_config.labels_per_row is {config['labels_per_row']}, but a row "
                               f"of {data['train_dataset'].file} has {most} labels; leave the key out")
    monitor = recipes.callback(recipe, "UsefulTokensMonitor")
    if monitor is None or "train_dataset" not in data:
        return
    runner, train_data = recipe["runner_config"], data["train_dataset"]
    monitor["tokens_per_row"] = train_data.tokens.total / train_data.counts.out
    monitor["rows_per_step"] = runner["batch_size"] * (workers if recipe.get("use_parallel") else 1)
    monitor["steps_per_sink"] = runner["sink_size"] if runner.get("sink_mode") else 1
