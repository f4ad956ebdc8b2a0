"""The pieces weights.py is made of: names, types, files.

That weights mean the same on both sides is shown in test_weights_parity.py.
"""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from research_internlm.checkpoints import dtypes, tensor_files, weight_names
from research_internlm.checkpoints.dtypes import BF16, Entry
from research_internlm.checkpoints.tensor_files import TensorFile, write_tensors
from research_internlm.data import families
from research_internlm.model import lora
from research_internlm.shared.errors import ToolkitError
from tests.helpers.weight_files import CONFIG, SHAPES, random_tensors, read, write

# Names


@pytest.mark.parametrize("spelling", [families.LLAMA_NAMES, families.INTERNLM2_NAMES])
def test_names_go_both_ways(spelling):
    """Every parameter has one place, every place gives its parameters back, and nothing is left over."""
    places = {weight_names.to_hf(name, spelling) for name in SHAPES}
    back = [name for place in places for name in weight_names.from_hf(place, spelling)]
    assert sorted(back) == sorted(SHAPES)
    for name in SHAPES:
        assert name in weight_names.from_hf(weight_names.to_hf(name, spelling), spelling)
    if spelling == families.LLAMA_NAMES:
        assert len(places) == len(SHAPES)


@pytest.mark.parametrize(("ours", "llama", "internlm2"), [
    # From the index files of internlm-7b and internlm2-7b.
    ("model.tok_embeddings.embedding_weight", "model.embed_tokens.weight", "model.tok_embeddings.weight"),
    ("model.norm_out.weight", "model.norm.weight", "model.norm.weight"),
    ("lm_head.weight", "lm_head.weight", "output.weight"),
    ("model.layers.31.attention.wv.weight", "model.layers.31.self_attn.v_proj.weight",
     "model.layers.31.attention.wqkv.weight"),
    ("model.layers.3.attention.wo.bias", "model.layers.3.self_attn.o_proj.bias",
     "model.layers.3.attention.wo.bias"),
    ("model.layers.0.feed_forward.w2.weight", "model.layers.0.mlp.down_proj.weight",
     "model.layers.0.feed_forward.w2.weight"),
    ("model.layers.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight",
     "model.layers.0.ffn_norm.weight"),
])
def test_names_are_the_releases(ours, llama, internlm2):
    assert weight_names.to_hf(ours, families.LLAMA_NAMES) == llama
    assert weight_names.to_hf(ours, families.INTERNLM2_NAMES) == internlm2


def test_the_fused_wqkv_is_cut_as_internlm2_lays_it_out():
    # 4 heads of 2 rows, 2 key-value heads: q0 q1 k0 v0 | q2 q3 k1 v1
    name = "model.layers.0.attention.w{}.weight"
    rows = {letter: weight_names.source_of(name.format(letter), families.INTERNLM2_NAMES, CONFIG).rows
            for letter in "qkv"}
    assert rows == {"q": ((0, 4), (8, 12)), "k": ((4, 6), (12, 14)), "v": ((6, 8), (14, 16))}


def test_peft_names():
    a, b = lora.adapter_names("model.layers.5.feed_forward.w1.weight")
    assert weight_names.to_peft(a) == "base_model.model.model.layers.5.mlp.gate_proj.lora_A.weight"
    assert weight_names.to_peft(b) == "base_model.model.model.layers.5.mlp.gate_proj.lora_B.weight"


def test_misfits_are_all_named_and_layers_joined():
    wanted = weight_names.parameter_shapes({**CONFIG, "num_layers": 40})
    found = {name: shape for name, shape in wanted.items() if name in SHAPES or ".17." in name}
    with pytest.raises(ToolkitError) as caught:
        weight_names.require_parameters(found, wanted, "x.ckpt", "do this")
    cells = sorted({name.split(".", 3)[3] for name in wanted if name.startswith("model.layers.")})
    listed = str(caught.value).split(" missing: ")[1].split("; do this")[0].split(", ")
    assert sorted(listed) == sorted(f"model.layers.{{2-16,18-39}}.{cell}" for cell in cells)
    assert f" {37 * len(cells)} missing: " in str(caught.value)


# Types


def test_bfloat16_rounds_to_nearest_even_and_keeps_what_is_no_number():
    bits = [(0x3F808000, 0x3F80), (0x3F818000, 0x3F82), (0x3F808001, 0x3F81), (0x7FFFFFFF, 0x7FC0),
            (0x7F7FFFFF, 0x7F80), (0xFF800000, 0xFF80), (0x80000000, 0x8000)]
    source = np.array([one for one, _ in bits], np.uint32).view(np.float32)
    assert [hex(v) for v in dtypes.cast(source, BF16)["bf16"]] == [hex(expected) for _, expected in bits]


@pytest.mark.parametrize("flag", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_found(flag, value):
    dtype = dtypes.FLAG_TYPES[flag]
    fine = dtypes.cast(np.array([[0.0, -3.5, 1e4]], np.float32), dtype)
    check = dtypes.FiniteCheck("do this")
    assert check.see(fine, "x") is fine
    check.finish()
    for name in ("wq", "wk", "wq"):
        check.see(dtypes.cast(np.array([1, value], np.float32), dtype), name)
    with pytest.raises(ToolkitError, match=rf"2 tensors .*: wq \({flag}\), wk \({flag}\); .*; do this"):
        check.finish()


# Files


@pytest.mark.model
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("flag", ["fp16", "bf16", "fp32"])
def test_mindspore_reads_what_is_written(tmp_path, monkeypatch, suffix, flag):
    import mindspore

    monkeypatch.setattr(tensor_files, "BLOCK_BYTES", 64)  # several values per tensor in a .ckpt
    tensors = random_tensors(SHAPES, dtype=dtypes.FLAG_TYPES[flag])
    write(tmp_path / "in.safetensors", tensors)
    with TensorFile(tmp_path / "in.safetensors") as file:
        write_tensors(tmp_path / f"x{suffix}", file.entries, lambda name: [
            file.rows(name, *rows) for rows in tensor_files.row_blocks(file.entries[name])])
    loaded = mindspore.load_checkpoint(str(tmp_path / f"x{suffix}"), format=suffix[1:])
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert np.array_equal(loaded[name].astype(mindspore.float32).asnumpy(), dtypes.to_float32(value))
    for name, value in read(tmp_path / f"x{suffix}").items():
        assert value.tobytes() == tensors[name].tobytes()


@pytest.mark.model
def test_what_mindspore_writes_is_read(tmp_path, monkeypatch):
    import mindspore
    from mindspore.train import serialization

    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)  # KB: it cuts real ones at 512 MB
    big = np.arange(3000, dtype=np.float32).reshape(100, 30)
    mindspore.save_checkpoint(
        [{"name": "big.weight", "data": mindspore.Tensor(big)},
         {"name": "step_num", "data": mindspore.Tensor(7, mindspore.int64)}],
        str(tmp_path / "x.ckpt"), crc_check=True)
    with TensorFile(tmp_path / "x.ckpt") as file:
        assert len(file.entries["big.weight"].pieces) > 5
        assert np.array_equal(file.read("big.weight"), big)
        assert np.array_equal(file.rows("big.weight", 17, 93), big[17:93])
        assert file.entries["step_num"].shape == ()


def test_safetensors_are_the_library_s(tmp_path):
    tensors = random_tensors(SHAPES)
    write(tmp_path / "ours.safetensors", tensors)
    save_file(tensors, tmp_path / "theirs.safetensors")
    theirs, ours = load_file(tmp_path / "ours.safetensors"), read(tmp_path / "theirs.safetensors")
    for name, value in tensors.items():
        assert np.array_equal(theirs[name], value) and np.array_equal(ours[name], value)
    header = struct.unpack("<Q", (tmp_path / "ours.safetensors").read_bytes()[:8])[0]
    assert header % 8 == 0


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("keep", [3, 40, 0.5, -1])
def test_truncated_files_are_refused(tmp_path, suffix, keep):
    content = write(tmp_path / f"x{suffix}", random_tensors(SHAPES)).read_bytes()
    size = int(len(content) * keep) if 0 < keep < 1 else keep
    (tmp_path / f"cut{suffix}").write_bytes(content[:size])
    with pytest.raises(ToolkitError, match=r"the checkpoint .*cut.* is truncated, damaged or not a"):
        TensorFile(tmp_path / f"cut{suffix}")


def damaged(path, change):
    """A safetensors file whose header was changed."""
    content = write(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length:])
    return path


@pytest.mark.parametrize(("change", "message"), [
    (lambda header: header["a"].update(data_offsets=[0, 20]), r"a has 20 bytes.*b begins at byte"),
    (lambda header: header["b"].update(data_offsets=[24, 8]), r"b has -16 bytes"),
    (lambda header: header["b"].update(data_offsets=[8, 24]), r"b begins at byte [\d,]+, the tensor before"),
    (lambda header: header["b"].update(shape=[5]), r"b has 16 bytes, which is not what its shape"),
    (lambda header: header["b"].update(shape=[-4]), r"b has the shape \(-4,\)"),
    (lambda header: header["b"].update(shape="4"), r"b has the shape \('4',\)"),
    (lambda header: header.pop("b"), r"the tensors end at byte"),
    (lambda header: header.update(b=[1]), "list indices"),
    (lambda header: header["b"].update(data_offsets=5), "not iterable|cannot unpack"),
])
def test_headers_that_do_not_fit_the_bytes_are_refused(tmp_path, change, message):
    with pytest.raises(ToolkitError, match=r"is truncated, damaged or not a safetensors file: .*" + message):
        TensorFile(damaged(tmp_path / "x.safetensors", change))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_cut_while_it_is_read_gives_no_invented_values(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}", {"a": np.ones((9000, 3), np.float32)})
    with TensorFile(path) as file:
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ToolkitError, match="ends inside a: it was cut"):
            file.read("a")


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_a_file_named_after_no_format_is_told_by_its_content(tmp_path, form):
    values = random_tensors(SHAPES)
    write_tensors(tmp_path / "weights", {name: Entry(value.shape, value.dtype) for name, value in
                                         values.items()}, lambda name: [values[name]], file_format=form)
    assert all(np.array_equal(value, values[name]) for name, value in read(tmp_path / "weights").items())
