"""The commands under attack: the valid files each reads, and its command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from preprocess import alpaca_data_preprocess_v1, data_preprocess, detection_csv2json, mmlu_cmmlu_csv2json
from preprocess.mindrecord import synthetic
from research_internlm import (
    answers,
    doctor_data,
    evaluate,
    lengths,
    logs,
    plan,
    publish,
    recipes,
    report,
    score,
    submit,
    weights,
)
from research_internlm.checkpoints.hf_export import export_adapter
from research_internlm.checkpoints.hf_import import import_model
from research_internlm.data.choice import choice_input, choice_instruction, choice_output
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.runs.answers_file import Answer, StepAnswers, append
from research_internlm.shared.files import sha256_of, write_manifest
from tests.attacks import sandbox, stand_ins
from tests.helpers.run_checkpoints import checkpoint
from tests.helpers.run_info import manifest
from tests.helpers.tiny_vocabulary import write_vocabulary
from tests.helpers.weight_files import CONFIG, hf_release, make_run, random_tensors, write

OUTPUT = "out"


@dataclass(frozen=True)
class Target:
    """A command, and the folder of valid files it is run on.

    Attributes:
        name: For the report.
        main: Its main.
        argv: Arguments, relative to the folder.
    """

    name: str
    main: Callable[[list[str]], int | None]
    argv: tuple[str, ...]


def exam_items(count: int = 12) -> list[dict]:
    options = ["one", "two", "three", "four"]
    return [{"instruction": choice_instruction("art"), "input": choice_input(f"Question {n}?", options),
             "output": choice_output("ABCD"[n % 4]), "source": "mmlu", "subject": "art", "split": "test",
             "file": "mmlu/test/art_test.csv", "row": n + 1, "question": f"Question {n}?", "options": options,
             "answer": "ABCD"[n % 4]} for n in range(count)]


def make_files(folder: Path, root: Path, tokenizer: Path, finished_run: Path) -> None:
    """Writes every valid file the targets read."""
    for name in ("mmlu/test/art_test.csv", "mmlu/dev/art_dev.csv"):
        rows = [[f"Question {n} of {name}?", "one", "two", "three", "four", "ABCD"[n % 4]] for n in range(4)]
        _csv(folder / name, rows)
    _csv(folder / "cmmlu/test/art.csv", [["", "Question", *"ABCD", "Answer"],
                                         *([n, f"问题{n}", "一", "二", "三", "四", "B"] for n in range(4))])
    _csv(folder / "hf/test/art_test.csv", [["question", "subject", "choices", "answer"],
                                           ["Question?", "art", "['one', 'two', 'three', 'four']", "1"]])
    _json(folder / "items.json", exam_items())
    shutil.copy(tokenizer, folder / "tokenizer.model")
    for name in ("lora_finetune.yaml", "predict_mmlu.yaml"):
        shutil.copy(root / "yaml" / name, folder / name)
    layers = recipes.load_layers(root / "yaml/overlays/cpu_tiny.yaml")  # one file, whatever it extends
    (folder / "cpu_tiny.yaml").write_text(yaml.safe_dump(layers))
    answers = [{"text": "red", "answer_start": 0}]
    _json(folder / "squad.json", {"version": "1.1", "data": [{"title": "t", "paragraphs": [
        {"context": "red", "qas": [{"id": str(n), "question": "q?", "answers": answers}]}
        for n in range(3)]}]})
    _json(folder / "predictions.json", {str(n): "red" for n in range(3)})
    words = ["red", "blue", "long", "short", "old", "new", "one", "two"]
    texts = [" ".join(words[(n + 3) ** place % 31 % 8] + str(n) for place in range(1, 30)) for n in range(30)]
    _csv(folder / "texts.csv", [["text", "label", "prompt_name", "source"],
                                *([text, n % 2, f"p{n % 4}", f"s{n % 3}"] for n, text in enumerate(texts))])
    _json(folder / "texts.json", [{"id": n, "text": text, "label": n % 2} for n, text in enumerate(texts)])
    _json(folder / "answers.json", {str(n): "AI" for n in range(30)})
    hf_release(folder / "release")
    import_model(folder / "release", folder / "converted.ckpt", None, False)
    base = write(folder / "base.ckpt", random_tensors_of_config())
    write(folder / "base.safetensors", random_tensors_of_config())
    make_run(folder / "run1", base)
    export_adapter(folder / _RUN1, folder / "peft", False)
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": {"model_config": CONFIG}}))
    size = load_tokenizer(write_vocabulary(folder / "bpe.model")).vocab_size()
    exported = {**CONFIG, "vocab_size": size}
    write(folder / "bpe.ckpt", random_tensors_of_config(exported))
    (folder / "bpe.yaml").write_text(yaml.safe_dump({"model": {"model_config": exported}}))
    shutil.copytree(finished_run, folder / "finished", symlinks=True)
    _make_training(folder)
    _make_answers(folder / "answered")
    vocab_size = load_tokenizer(folder / "tokenizer.model").vocab_size()
    synthetic.write_rows(folder / "made.mindrecord", synthetic.samples(12, vocab_size, 100), 200, vocab_size,
                         False)
    (folder / "worker_0.log").write_text((finished_run / "msrun_log/worker_0.log").read_text())


def _make_answers(run: Path) -> None:
    """A run whose last step is one to take."""
    for step in (0, 4):
        judged = [Answer(messages=[{"role": "user", "content": f"{kind}?"}], answer="Bao", ended=True,
                         kind=kind, passed=step > 0) for kind in ("identity", "general")]
        run.mkdir(exist_ok=True)
        append(run / "answers.jsonl", StepAnswers(step=step, seconds=1.0, time="t", answers=judged))
    checkpoint(run, 4)


def random_tensors_of_config(model_config: dict = CONFIG) -> dict:
    from research_internlm.checkpoints.weight_names import parameter_shapes

    return random_tensors(parameter_shapes(model_config))


def _make_training(folder: Path) -> None:
    """Data, weights and settings of a tiny training, a run that has begun, and the mirror of another."""
    processor = load_tokenizer(folder / "tokenizer.model")
    shape = {"vocab_size": processor.vocab_size(), "seq_length": 256, "hidden_size": 32, "num_layers": 1,
             "num_heads": 2}
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"extends": ["cpu_tiny.yaml"], "model": {
        "model_config": shape}, "callbacks": [{"type": "CheckpointMonitor", "save_checkpoint_steps": 2}]}))
    recipe = recipes.resolve(folder / "lora_finetune.yaml", [folder / "tiny.yaml"])
    write(folder / "model.ckpt", random_tensors_of_config(recipes.model_config(recipe)))
    write(folder / "model.safetensors", random_tensors_of_config(recipes.model_config(recipe)))
    for name, length in (("rows.mindrecord", 257), ("eval.mindrecord", 256)):
        (folder / name).write_bytes(b"rows")
        write_manifest(folder / name, **manifest(
            40, parts=[{"file": name, "bytes": 4, "sha256": sha256_of(folder / name)}],
            record_length=length, seq_length=length - 1, special_ids=dict(special_tokens(processor).ids)
            | {"vocab_size": processor.vocab_size()}, tokenizer_sha256=sha256_of(folder / "tokenizer.model")))
    for main, line in ((stand_ins.train_main, f"{_TRAIN} --output_dir begun"),
                       (stand_ins.mirror_main, "push finished obs://bucket/run")):
        done = sandbox.run(main, line.split(), folder)
        assert done.code == 0, done
    checkpoint(folder / "begun", 4)
    (folder / "questions.json").write_text(json.dumps(exam_items(3)))
    (folder / "questions.txt").write_text("One?\nTwo?\n")


def _csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _target(name: str, main: Callable[[list[str]], int | None], line: str) -> Target:
    return Target(name, main, tuple(line.split()))


_RECIPE = "--config lora_finetune.yaml --overlay tiny.yaml"
_DATA = "--train_dataset rows.mindrecord --eval_dataset eval.mindrecord --load_checkpoint model.ckpt"
_TRAIN = f"{_RECIPE} --use_parallel False {_DATA}"
_PREDICT = "--config predict_mmlu.yaml --overlay tiny.yaml --model_file tokenizer.model"
_TRAINING_FILES = ("lora_finetune.yaml", "tiny.yaml", "rows.mindrecord", "rows.mindrecord.manifest.json",
                   "eval.mindrecord.manifest.json", "model.ckpt")
_BEGUN = ("begun/run.json", "begun/resolved_config.yaml", "begun/checkpoint/rank_0/tiny_rank_0-1_4.ckpt")
_PREDICT_FILES = ("predict_mmlu.yaml", "tiny.yaml", "tokenizer.model")
_RUN1 = "run1/checkpoint_trainable/rank_0/a.ckpt"
_ONE_EACH = "--valid_per_category 1 --test_per_category 1"
_FINISHED = tuple(f"finished/{name}" for name in (
    "run.json", "resolved_config.yaml", "results_mmlu.json", "results_squad.json", "obs_links.json",
    "msrun_log/worker_1.log"))
# Target -> the files of its folder that are changed.
TARGETS: dict[Target, tuple[str, ...]] = {
    _target("csv2json", mmlu_cmmlu_csv2json.main, "--mmlu_dir mmlu --cmmlu_dir cmmlu --output out.json"):
        ("mmlu/test/art_test.csv", "mmlu/dev/art_dev.csv", "cmmlu/test/art.csv"),
    _target("csv2json compat", mmlu_cmmlu_csv2json.main,
            "--mmlu_dir mmlu --official_compat --output out.json"): ("mmlu/test/art_test.csv",),
    _target("csv2json hf", mmlu_cmmlu_csv2json.main, "--mmlu_dir hf --output out.json"):
        ("hf/test/art_test.csv",),
    _target("data_preprocess", data_preprocess.main, f"--input items.json --output_dir out {_ONE_EACH}"):
        ("items.json",),
    _target("held_out", data_preprocess.main,
            f"--input items.json --output_dir out --split held_out {_ONE_EACH}"): ("items.json",),
    _target("converter", alpaca_data_preprocess_v1.main,
            "--input_glob items.json --output_file out.mindrecord --model_file tokenizer.model "
            "--seq_length 128 --show 2"): ("items.json", "tokenizer.model"),
    _target("squad-score", evaluate.main,
            "squad-score --squad_file squad.json --predictions predictions.json --output out.json"):
        ("squad.json", "predictions.json"),
    _target("plan", plan.main,
            "--config lora_finetune.yaml --overlay cpu_tiny.yaml --items 1000 --write out.yaml"):
        ("lora_finetune.yaml", "cpu_tiny.yaml"),
    _target("from-hf", weights.main, "from-hf release out.ckpt"):
        ("release/config.json", "release/model.safetensors"),
    _target("merge", weights.main, f"merge --base base.ckpt --adapter {_RUN1} --output out.ckpt"):
        ("base.ckpt", _RUN1, "run1/run.json", "run1/resolved_config.yaml"),
    _target("to-peft", weights.main, f"to-peft {_RUN1} out"): (_RUN1, "run1/resolved_config.yaml"),
    _target("to-hf", weights.main, "to-hf base.safetensors out --config model.yaml"):
        ("base.safetensors", "model.yaml"),
    _target("logs", logs.main, "finished --output out"): (*_FINISHED, "finished/msrun_log/worker_0.log"),
    _target("logs of a file", logs.main, "worker_0.log --output out"): ("worker_0.log",),
    _target("report", report.main, "finished --overwrite --lang en"): _FINISHED,
    _target("submit", submit.main, "finished --team t --output out"):
        (*_FINISHED, "finished/results_squad.predictions.json", "finished/report.md",
         "finished/checkpoint/rank_0/lora_rank_0-9_9.ckpt"),
    _target("answers", answers.main, "answered --output out.json"):
        ("answered/answers.jsonl", "answered/checkpoint/rank_0/tiny_rank_0-1_4.ckpt"),
    _target("score", score.main, "--accuracy 0.9 --trainable 100"): (),
    _target("plan of data", plan.main, f"{_RECIPE} --train_dataset rows.mindrecord --cards 1"):
        ("rows.mindrecord.manifest.json", "tiny.yaml"),
    _target("from-hf safetensors", weights.main, "from-hf release out.safetensors --dtype fp16"):
        ("release/config.json", "release/model.safetensors"),
    _target("to-hf with tokenizer", weights.main,
            "to-hf bpe.ckpt out --config bpe.yaml --model_file bpe.model"):
        ("bpe.ckpt", "bpe.model", "bpe.yaml"),
    _target("evaluate mmlu", stand_ins.evaluate_main,
            f"mmlu {_PREDICT} --load_checkpoint model.ckpt --test_file items.json --output out.json"):
        (*_PREDICT_FILES, "items.json", "model.ckpt"),
    _target("evaluate mmlu logits", stand_ins.evaluate_main, f"mmlu {_PREDICT} --load_checkpoint "
            "model.safetensors --test_file items.json --output out.json --mode logits --limit 5"):
        ("items.json", "model.safetensors"),
    _target("evaluate squad", stand_ins.evaluate_main,
            f"squad {_PREDICT} --load_checkpoint model.ckpt --squad_file squad.json --output out.json"):
        (*_PREDICT_FILES, "squad.json"),
    _target("audit", stand_ins.audit_main,
            f"{_PREDICT} --load_checkpoint model.ckpt --base model.safetensors --dataset rows.mindrecord "
            "--output out.json"):
        (*_PREDICT_FILES, "model.safetensors", "rows.mindrecord.manifest.json", "rows.mindrecord"),
    _target("train", stand_ins.train_main, f"{_TRAIN} --output_dir out"): _TRAINING_FILES,
    _target("train again", stand_ins.train_main, f"{_TRAIN} --output_dir begun --resume_training True"):
        _BEGUN,
    _target("predict", stand_ins.train_main,
            f"{_PREDICT} --load_checkpoint model.ckpt --output_dir out --predict_data questions.json"):
        (*_PREDICT_FILES, "questions.json", "model.ckpt"),
    _target("predict a text", stand_ins.train_main,
            f"{_PREDICT} --load_checkpoint model.ckpt --output_dir out --predict_data questions.txt"):
        ("questions.txt",),
    _target("launch", stand_ins.launch_main,
            f"lora_finetune.yaml 1 -- --overlay tiny.yaml {_DATA} --output_dir out"): _TRAINING_FILES,
    _target("launch again", stand_ins.launch_main,
            f"lora_finetune.yaml 1 -- --overlay tiny.yaml {_DATA} --output_dir begun"):
        (*_BEGUN, "tiny.yaml"),
    _target("upload", stand_ins.upload_main, "finished obs://bucket/up --record links.json"):
        ("finished/obs_links.json", "finished/run.json"),
    _target("upload dry", stand_ins.upload_main, "finished obs://bucket/up --dry_run"):
        ("finished/run.json",),
    _target("publish", publish.main, "peft --to openxlab --repo u/m --license mit --run finished --dry_run"):
        ("peft/adapter_config.json", "peft/adapter_model.safetensors", "finished/run.json",
         "finished/resolved_config.yaml", "finished/results_mmlu.json", "finished/results_squad.json"),
    _target("mirror push", stand_ins.mirror_main, "push finished obs://bucket/run --finish_within 5"):
        ("finished/run.json", "finished/resolved_config.yaml", "remote/run/mirror.json",
         "finished/checkpoint/rank_0/lora_rank_0-9_9.ckpt"),
    _target("mirror fetch", stand_ins.mirror_main, "fetch obs://bucket/run fetched"):
        ("remote/run/mirror.json",),
    _target("detection-csv2json", detection_csv2json.main, "--csv texts.csv --output_dir out --num_workers 1 "
            "--valid_share 0.3 --test_share 0.3 --jaccard 1"): ("texts.csv",),
    _target("detection-score", evaluate.main,
            "detection-score --test texts.json --predictions answers.json --output out.json"):
        ("texts.json", "answers.json"),
    _target("from-peft", weights.main, "from-peft peft out --base converted.ckpt"):
        ("peft/adapter_config.json", "peft/adapter_model.safetensors", "converted.ckpt.manifest.json"),
    _target("doctor-data", doctor_data.main,
            "made.mindrecord --model_file tokenizer.model --fix out.mindrecord"):
        ("made.mindrecord", "made.mindrecord.db", "made.mindrecord.manifest.json", "tokenizer.model"),
    _target("lengths", lengths.main, "items.json --model_file tokenizer.model --output out.json"):
        ("items.json", "tokenizer.model"),
}
