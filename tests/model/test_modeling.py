"""What InternLM's model adds to MindFormers' Llama."""

import pytest

from tests.helpers.commands import ROOT

YAML = ROOT / "yaml"


@pytest.mark.model
def test_a_new_head_is_drawn_with_its_own_standard_deviation():
    from mindformers import MindFormerConfig
    from mindformers.models.build_model import build_network

    from research_internlm import recipes
    from research_internlm.training import registered  # noqa: F401 (the names that the recipe has)

    def deviations(*overrides: str) -> list[float]:
        recipe = recipes.resolve(YAML / "lora_finetune.yaml", [YAML / "overlays" / "cpu_tiny.yaml"],
                                 ["model.model_config.pet_config=null", *overrides])
        network = build_network(MindFormerConfig(**recipe).model)
        return [float(parameter.asnumpy().std()) for parameter in network.get_parameters()
                if parameter.name in ("lm_head.weight", "model.layers.0.attention.wq.weight")]

    assert deviations("model.model_config.head_init_std=0.05") == pytest.approx([0.01, 0.05], rel=0.05)
    wide = deviations("model.model_config.init_method_std=0.05")
    assert wide == pytest.approx([0.05, 0.01], rel=0.05)  # MindFormers' own
