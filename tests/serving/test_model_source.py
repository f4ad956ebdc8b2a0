"""Which file an engine loads for what the user named."""

import numpy as np

from research_internlm import weights
from research_internlm.serving.model_source import ModelSource
from tests.helpers.tiny_quantised import GROUP, make_model
from tests.helpers.weight_files import read


def test_a_quantised_folder_is_dequantised_for_loading_and_that_is_said(tmp_path, demo_data, capsys):
    checkpoint, recipe, tensors, _ = make_model(tmp_path, demo_data / "tokenizer.model")
    weights.main(["quantize", "--model", str(checkpoint), "--config", str(recipe), "--method", "rtn",
                  "--group_size", str(GROUP), "--output", str(tmp_path / "w4")])
    with ModelSource("yaml/predict_mmlu.yaml", str(tmp_path / "w4")).weights() as path:
        loaded = read(path)
    assert not path.exists()
    assert list(loaded) == list(tensors) and {value.dtype.name for value in loaded.values()} == {"float16"}
    name = "model.layers.0.attention.wo.weight"
    difference = np.abs(loaded[name] - tensors[name]).max()
    assert 0 < difference < 0.05
    assert "quantised weights: they are dequantised to float16" in capsys.readouterr().err
