"""The batch of an evaluation by the device's memory."""

import pytest

from research_internlm import recipes
from research_internlm.model.device_memory import generation_batch, memory_limit
from research_internlm.shared.errors import ToolkitError


@pytest.mark.parametrize(("memory", "tokens", "batch"), [
    ("58GB", 2048, 16), ("58GB", 1024, 32), ("18.34GB", 2048, 2), ("11GB", 2048, 1), ("58GB", 64, 256)])
def test_the_batch_of_an_evaluation_is_what_the_memory_beside_the_weights_holds(root, memory, tokens, batch):
    # By hand for 7B in float16: 13.64 GiB of weights; of a sequence of 2,048 tokens 2 x 32 x 4,096 x 2 bytes
    # of cache a token are 1 GiB, and 2 x (6 x 4,096 + 3 x 11,008) of a first pass 0.22: 31.7 in 52.2 GiB.
    recipe = recipes.resolve(root / "yaml/predict_mmlu.yaml",
                             overrides=[f"context.max_device_memory={memory}"])
    assert generation_batch(recipe, tokens) == batch


def test_a_cpu_answers_eight(root):
    recipe = recipes.resolve(root / "yaml/predict_mmlu.yaml", [root / "yaml/overlays/cpu_tiny.yaml"])
    assert generation_batch(recipe, 2048) == 8


def test_a_limit_of_another_form_is_refused():
    with pytest.raises(ToolkitError, match="max_device_memory is 'much'"):
        memory_limit({"context": {"max_device_memory": "much"}})
