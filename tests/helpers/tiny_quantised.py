"""A tiny model for the tests of quantisation, with channels of very different size, as real ones have."""

import numpy as np
import yaml

from research_internlm.checkpoints import weight_names
from research_internlm.data.tokens import load_tokenizer
from tests.helpers.weight_files import write

GROUP = 32
CONFIG = {"type": "InternLMConfig", "hidden_size": 64, "num_layers": 3, "num_heads": 4, "n_kv_heads": 4,
          "intermediate_size": 96, "seq_length": 64, "rms_norm_eps": 1e-6, "has_bias": True}
GROUPED = {**CONFIG, "type": "InternLM2Config", "n_kv_heads": 2, "has_bias": False, "theta": 1000000.0,
           "rms_norm_eps": 1e-5}


def weights_of(config, seed=0):
    """Random weights; some channels of the norms are large, so that what follows them sees outliers."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in weight_names.parameter_shapes(config).items():
        values = random.normal(0, 0.1, shape)
        if "norm" in name:
            values = 1 + values
            values[random.integers(0, len(values), 3)] *= 12
            values[1] = 0
        tensors[name] = values.astype(np.float32)
    return tensors


def make_model(folder, model_file, config=CONFIG):
    """model.ckpt and model.yaml; returns them and the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**config, "vocab_size": load_tokenizer(model_file).vocab_size()}
    tensors = weights_of(config)
    recipe = folder / "model.yaml"
    recipe.write_text(yaml.safe_dump({"model": {"model_config": config}}))
    return write(folder / "model.ckpt", tensors), recipe, tensors, config
