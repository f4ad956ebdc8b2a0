"""A tiny model's weight files for the tests of weights.py: tensors, checkpoints, a run, a release."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from research_internlm import recipes
from research_internlm.checkpoints import dtypes, hf_config, weight_names
from research_internlm.checkpoints.dtypes import Entry
from research_internlm.checkpoints.tensor_files import TensorFile, write_tensors
from research_internlm.model import lora
from research_internlm.shared.files import sha256_of

WEIGHTS = "research_internlm/weights.py"
CONFIG = {
    "type": "InternLMConfig", "hidden_size": 8, "num_layers": 2, "num_heads": 4, "n_kv_heads": 2,
    "seq_length": 16, "intermediate_size": 12, "vocab_size": 20, "rms_norm_eps": 1e-6, "has_bias": True,
    "pet_config": {"pet_type": "lora", "lora_rank": 2, "lora_alpha": 6, "target_modules": ".*wq|.*wv|.*w2"},
}
SHAPE_KEYS = {key: value for key, value in CONFIG.items() if key not in ("pet_config", "seq_length")}
SHAPES = weight_names.parameter_shapes(CONFIG)


def random_tensors(shapes, seed=0, dtype=dtypes.FLAG_TYPES["fp32"]):
    random = np.random.default_rng(seed)
    return {name: dtypes.cast(random.standard_normal(shape).astype(np.float32), dtype)
            for name, shape in shapes.items()}


def write(path, tensors):
    """Writes a checkpoint; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {name: Entry(value.shape, value.dtype) for name, value in tensors.items()},
                  lambda name: [tensors[name]])
    return path


def read(path):
    with TensorFile(path) as file:
        return {name: file.read(name) for name in file.entries}


def lora_tensors(seed=1, rank=2):
    shapes = {}
    for name, (rows, columns) in ((n, s) for n, s in SHAPES.items() if n.endswith(("wq.weight", "wv.weight",
                                                                                 "w2.weight"))):
        a, b = lora.adapter_names(name)
        shapes[a], shapes[b] = (rank, columns), (rows, rank)
    return random_tensors(shapes, seed)


def make_run(folder, base, config=CONFIG):
    """A run's folder as run_internlm.py leaves it, started from `base`; returns its adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    recipes.write_resolved({"model": {"model_config": config}}, folder / "resolved_config.yaml")
    (folder / "run.json").write_text(json.dumps({"load_checkpoint_sha256": base and sha256_of(base)}))
    return write(folder / "checkpoint_trainable" / "rank_0" / "a.ckpt", lora_tensors())


@pytest.fixture
def run(tmp_path):
    """A run's folder, the base it started from, and its adapter."""
    base = write(tmp_path / "base.ckpt", random_tensors(SHAPES))
    return tmp_path / "run", base, make_run(tmp_path / "run", base)


def hf_release(folder, config=CONFIG, shapes=SHAPES, **tensors):
    """A model folder of one safetensors file, as internlm-7b's config names things."""
    folder.mkdir()
    own = hf_config.from_model_config(config, "fp32")
    own |= {"model_type": "internlm", "bias": own.pop("attention_bias")}
    (folder / "config.json").write_text(json.dumps(own))
    values = {weight_names.to_hf(name): value for name, value in random_tensors(shapes).items()} | tensors
    kept = {name: value for name, value in values.items() if value is not None}
    save_file(kept, folder / "model.safetensors")
    return folder
