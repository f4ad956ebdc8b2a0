"""What weights.py refuses before any work: outputs that cannot be or would destroy, configs that mislead."""

import copy
import json
import shutil
import signal
import struct
import subprocess
import sys

import pytest

from research_internlm import recipes, weights
from research_internlm.checkpoints.tensor_files import TensorFile
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import ROOT, assert_user_error, run_script
from tests.helpers.weight_files import CONFIG, SHAPES, WEIGHTS, hf_release, make_run, random_tensors, write


@pytest.fixture
def place(tmp_path):
    """A release in hf/, a base, and a run."""
    hf_release(tmp_path / "hf")
    make_run(tmp_path / "run", write(tmp_path / "base.ckpt", random_tensors(SHAPES)))
    (tmp_path / "folder.ckpt").mkdir()
    return tmp_path


def listing(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def call(place, line):
    """Runs a command in this process; {} is the folder of the files."""
    arguments = weights.parse_arguments(line.replace("{}", str(place)).split())
    return weights._COMMANDS[arguments.command](arguments)


MERGE = "merge --base {}/base.ckpt --adapter {}/run/checkpoint_trainable/rank_0/a.ckpt --overwrite --output "
TO_HF = "to-hf {}/base.ckpt --config {}/run/resolved_config.yaml --overwrite "
TO_PEFT = "to-peft {}/run/checkpoint_trainable/rank_0/a.ckpt --overwrite "


@pytest.mark.parametrize(("line", "message"), [
    ("from-hf {}/hf {}/hf/model.safetensors --overwrite", "is also the input .*hf/model.safetensors"),
    ("from-hf {}/hf {}/hf/config.json --format ckpt --overwrite", "is also the input .*hf/config.json"),
    ("from-hf {}/hf {}/folder.ckpt --overwrite", "folder.ckpt is a folder, but a file is to be written"),
    ("from-hf {}/hf {}/base.ckpt/x.ckpt", "cannot write .*: .*base.ckpt is a file, not a folder"),
    ("from-hf {}/hf {}/base.ckpt/more/x.ckpt", "cannot write .*: .*base.ckpt is a file, not a folder"),
    ("from-hf {}/hf {}/" + "n" * 245 + ".ckpt", "cannot write .*: File name too long"),
    (MERGE + "{}/base.ckpt", "is also the input .*base.ckpt"),
    (MERGE + "{}/run/checkpoint_trainable/rank_0/a.ckpt", "is also the input .*a.ckpt"),
    (MERGE + "{}/folder.ckpt", "is a folder, but a file is to be written"),
    (TO_HF + "{}", "is also the input .*base.ckpt, or the folder that holds it"),
    (TO_HF + "{}/base.ckpt", "is also the input .*base.ckpt"),
    (TO_HF + "{}/hf/config.json", "config.json is a file, but a folder is to be written"),
    (TO_HF + "{}/run", r"run holds 3 files .*\(checkpoint_trainable, resolved_config.yaml, run.json\)"),
    (TO_PEFT + "{}/run", "is also the input .*a.ckpt, or the folder that holds it"),
    (TO_PEFT + "{}/base.ckpt", "is a file, but a folder is to be written"),
    (TO_PEFT + "{}/base.ckpt/x", "base.ckpt is a file, not a folder"),
])
def test_outputs_are_checked_before_the_work(place, line, message):
    before = listing(place)
    with pytest.raises(ToolkitError, match=message):
        call(place, line)
    assert listing(place) == before


def test_overwrite_replaces_an_export_whole(place):
    call(place, TO_HF + "{}/out")
    for stale in ("tokenizer.model", "tokenizer_config.json"):
        (place / "out" / stale).write_text("an earlier model's")
    call(place, TO_HF + "{}/out model.model_config.theta=5")
    assert {path.name for path in (place / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "model.safetensors.manifest.json"}
    assert json.loads((place / "out" / "config.json").read_text())["rope_theta"] == 5
    (place / "link").symlink_to("out")
    call(place, TO_HF + "{}/link model.model_config.theta=6")
    assert (place / "link").is_symlink()
    assert json.loads((place / "out" / "config.json").read_text())["rope_theta"] == 6
    (place / "out" / "pytorch_model.bin").write_text("of another model")
    with pytest.raises(ToolkitError, match=r"holds 1 files that no earlier export wrote \(pytorch_model"):
        call(place, TO_HF + "{}/out")


def test_what_an_import_knows_is_compared_by_merge_and_export(place):
    """Names and shapes do not tell another rotary base; the logits do, by up to 11.5."""
    hf_release(place / "hf777", {**CONFIG, "theta": 777.0})
    call(place, "from-hf {}/hf777 {}/base.ckpt --overwrite")
    with pytest.raises(ToolkitError, match=r"theta is 777\.0 there and 10000\.0 in the recipe"):
        call(place, MERGE + "{}/m.ckpt")
    with pytest.raises(ToolkitError, match=r"theta is 777\.0 there and 10000\.0 in the recipe"):
        call(place, TO_HF + "{}/out")
    assert not (place / "m.ckpt").exists() and not (place / "out").exists()
    shutil.rmtree(place / "run")
    make_run(place / "run", place / "base.ckpt", {**CONFIG, "theta": 777.0})
    call(place, MERGE + "{}/m.ckpt")
    merged = TO_HF.replace("base.ckpt", "m.ckpt") + "{}/out"
    call(place, merged)
    assert json.loads((place / "out" / "config.json").read_text())["rope_theta"] == 777.0
    with pytest.raises(ToolkitError, match=r"m\.ckpt was made with other settings.* theta is 777\.0 there"):
        call(place, merged + " model.model_config.theta=10000.0")


def test_an_error_of_the_system_on_a_path_is_one_line(place):
    (place / "hf" / "config.json").unlink()
    (place / "hf" / "config.json").symlink_to("config.json")  # a loop
    done = run_script(WEIGHTS, "from-hf", place / "hf", place / "x.ckpt", check=False)
    assert_user_error(done, "config.json")


@pytest.mark.parametrize(("change", "message"), [
    ("rms_norm_eps=1e-5", "rms_norm_eps is '1e-5', not a positive number"),
    ("theta=0", "theta is 0, not a positive number"),
    ("thetta=3", "model.model_config has no thetta; an export reads .*theta"),
    ("num_layers=two", "num_layers is 'two', not a positive whole number"),
    ("num_layers=null", "num_layers is missing"),
    ("seq_length=null", "seq_length is missing"),
    ("has_bias=1", "has_bias is 1, not true or false"),
    ("num_heads=3", "hidden_size 8 is not divided by 3 heads.*n_kv_heads 2 does not divide 3 heads"),
    ("tie_word_embeddings=True", "tie_word_embeddings is True"),
    ("num_layers=two model.model_config.theta=-1", "num_layers is 'two'.*theta is -1"),
])
def test_values_that_would_mislead_an_export_are_refused(place, change, message):
    with pytest.raises(ToolkitError, match=message):
        call(place, TO_HF + "{}/out model.model_config." + change)
    assert not (place / "out").exists()


@pytest.mark.parametrize("key", ["num_layers", "hidden_size", "seq_length"])
def test_a_config_without_the_shape_is_refused_for_export_and_adapter(place, key):
    config = copy.deepcopy(CONFIG)
    del config[key]
    recipes.write_resolved({"model": {"model_config": config}}, place / "run" / "resolved_config.yaml")
    for line in (TO_HF + "{}/out", TO_PEFT + "{}/out", MERGE + "{}/m.ckpt"):
        with pytest.raises(ToolkitError, match=f"resolved_config.yaml, model.model_config: {key} is missing"):
            call(place, line)


def test_an_export_without_a_tokenizer_says_so(place, capsys):
    call(place, TO_HF + "{}/out")
    assert "/out has no tokenizer files" in capsys.readouterr().out


def test_sigterm_leaves_nothing_behind(place):
    code = ("import time; from research_internlm.shared.staging import staging\n"
            f"with staging({str(place / 'out' / 'x')!r}) as folder:\n"
            "    print('ready', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    assert len(list((place / "out").glob(".partial-*"))) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not (place / "out").exists()


def test_a_tensor_named_twice_in_a_header_is_refused(tmp_path):
    tensor = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f"{{{tensor},{tensor}}}".encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(ToolkitError, match=r"w\.safetensors .*its header has the key 'w' twice"):
        TensorFile(path)
