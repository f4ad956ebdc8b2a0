"""What a recipe must be before any worker is started: its keys, its types, its LoRA targets, its device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from research_internlm import recipes
from research_internlm.checkpoints import hf_config
from research_internlm.model import cpu_patches, lora
from research_internlm.recipes.schedule import whole_number
from research_internlm.shared.arguments import is_whole
from research_internlm.shared.errors import ToolkitError, added_to
from research_internlm.training import answer_prompts


def recipe_problems(recipe: recipes.Recipe) -> list[str]:
    """Everything that is wrong with a resolved training recipe by itself, its data left aside.

    Imports MindSpore and MindFormers, whose classes say which keys there are; that takes seconds.

    Returns:
        One sentence a problem.
    """
    from research_internlm.recipes.check import problems
    from research_internlm.training import registered  # noqa: F401 (what the check looks up)

    found: list[str] = []
    with added_to(found):
        found.extend(problems(recipe))
    if not found:  # a wrong type is said once
        found.extend(_number_problems(recipe))
    with added_to(found):
        cpu_patches.check_model_config(recipes.model_config(recipe), recipe["context"]["device_target"])
    with added_to(found):
        lora.count_parameters(recipes.model_config(recipe))
    with added_to(found):
        if recipe["context"]["device_target"] == "CPU" and recipe.get("runner_config", {}).get("sink_mode"):
            found.append("runner_config.sink_mode is True on a CPU, where it multiplies the epochs; "
                         "add --overlay yaml/overlays/cpu_tiny.yaml")
    with added_to(found):
        found.extend(answer_prompts.problems(recipe))
    with added_to(found):
        parts = (recipe.get("runner_wrapper") or {}).get("micro_batches") or 1
        rows = (recipe.get("runner_config") or {}).get("batch_size") or 1
        if is_whole(rows, 1) and not (is_whole(parts, 1) and rows % parts == 0):
            found.append(f"runner_wrapper.micro_batches is {parts!r}, but has to divide "
                         f"runner_config.batch_size ({rows})")
    with added_to(found):
        if recipe.get("use_parallel") and Path(recipe.get("load_checkpoint") or "").suffix == ".safetensors":
            found.append(f"--load_checkpoint {recipe['load_checkpoint']}: under several workers MindFormers "
                         "takes a single file as .ckpt only; make one with weights.py from-hf HF_DIR "
                         "base.ckpt, or train with --use_parallel False")
    return found


def _number_problems(recipe: recipes.Recipe) -> Iterator[str]:
    """Numbers of the right type that no run can have: MindSpore fails on them after the model is built."""
    config = recipes.model_config(recipe)
    yield from (f"in model.model_config, {problem}" for problem in hf_config.shape_problems(config))
    # Where one must be there, recipes/structure.py says so.
    asked = {"runner_config.batch_size": {"default": 1}, "runner_config.epochs": {"default": 1},
             "seed": {"least": 0, "default": 0}}
    if config.get("pet_config"):
        asked["model.model_config.pet_config.lora_rank"] = {"default": 8}  # LoraConfig's
    for path, bounds in asked.items():
        try:
            whole_number(recipe, path, **bounds)
        except ToolkitError as error:
            yield str(error)
