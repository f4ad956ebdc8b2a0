"""Where measured steps come from: a probe, a run, a number of the user's, or the named table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.model.shape import intermediate_size
from research_internlm.planning import flops, points
from research_internlm.planning.cost import StepModel, fit
from research_internlm.planning.flops import shape_of
from research_internlm.planning.points import Point
from research_internlm.planning.probe import Probe
from research_internlm.runs.run_folder import RunFolder
from research_internlm.runs.worker_logs import steps_of_all
from research_internlm.shared.errors import ToolkitError

_WARM_UP_LINES = 2  # the first step compiles, and in sink mode one more line holds part of it
_7B = {"num_layers": 32, "hidden_size": 4096, "num_heads": 32, "vocab_size": 103168, "multiple_of": 256,
       "has_bias": True, "pet_config": {"lora_rank": 16, "target_modules": ".*wq|.*wk|.*wv|.*wo"}}


def from_step(step_ms: float, recipe: Mapping[str, Any]) -> StepModel:
    """One measured step of the recipe itself."""
    config = recipes.model_config(recipe)
    point = Point(shape=shape_of(recipe), step_ms=step_ms)
    return fit([point], config, config, f"one step of {step_ms:g} ms", True)


def from_run(folder: str | Path, recipe: Mapping[str, Any]) -> StepModel:
    """A measured step out of a run's folder: the median of its loss lines.

    Args:
        folder: The run.
        recipe: The recipe to predict for.

    Raises:
        ToolkitError: The folder holds no run or too few loss lines, or the run was of another model or on
            another kind of device.
    """
    run = RunFolder(folder)
    require_same_model(f"--measured {folder} is a run", run.recipe, recipe)
    records = list(steps_of_all(run.training_logs))[_WARM_UP_LINES:]
    if not records:
        raise ToolkitError(f"--measured {folder}: the first {_WARM_UP_LINES} loss lines may hold compilation "
                           "and its logs hold no more; let it run longer")
    step_ms = statistics.median(max(record.step_ms for record in group) for _, group in records)
    point = Point(shape=shape_of(run.recipe), step_ms=step_ms)
    return fit([point], run.model_config, recipes.model_config(recipe),
               f"one step of {step_ms:g} ms ({point.shape})", True)


def from_probe(probe: Probe, path: str | Path, recipe: Mapping[str, Any]) -> StepModel:
    """The steps of a probe.

    Raises:
        ToolkitError: It was of another model or on another kind of device.
    """
    require_same_model(f"--probe {path} is", probe.recipe, recipe)
    return fit(probe.points, recipes.model_config(probe.recipe), recipes.model_config(recipe),
               f"probe of {probe.date} on {probe.device}", True)


def from_table(recipe: Mapping[str, Any]) -> StepModel | None:
    """The named table's steps, scaled to the recipe's model; None on a CPU, of which it says nothing."""
    if (recipe.get("context") or {}).get("device_target") == "CPU":
        return None
    return fit(points.TABLE, _7B, recipes.model_config(recipe), points.TABLE_NAME, False)


def published(recipe: Mapping[str, Any]) -> str:
    """What the published speed of an NPU means for this model, in words."""
    config, length = recipes.model_config(recipe), 2048
    full = flops.step({**_7B, "pet_config": None}, _row(length, length)).total
    own = flops.step(config, _row(length, flops.head_places(length, True))).total
    speed = points.PUBLISHED_TOKENS_PER_SECOND
    return (f"published for an NPU: {speed:,} tokens/s a card (Atlas 800T A2, full fine-tuning of "
            "InternLM-7B in rows of 2,048, MindFormers r1.1.0), by FLOPs "
            f"{speed * full / own:,.0f} of this recipe's model without recomputing; a floor is not published")


def _row(length: int, places: int) -> flops.Shape:
    return flops.Shape(rows=1, seq_length=length, packed=True, recompute=False, head_places=places)


def require_same_model(what: str, measured: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Refuses steps of another model.

    Args:
        what: What the steps are, for the message.
        measured: The recipe they were measured with.
        recipe: The recipe to predict for.

    Raises:
        ToolkitError: With all differences.
    """
    found, wanted = _facts(measured), _facts(recipe)
    if other := [f"{key} {found[key]} (the recipe: {wanted[key]})" for key in wanted
                 if found[key] != wanted[key]]:
        raise ToolkitError(f"{what} of another model or device: {', '.join(other)}; "
                           "its step says nothing about this one, name one of the same model")


def _facts(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a step's time depends on beside its rows."""
    config = recipes.model_config(recipe)
    return {"device_target": (recipe.get("context") or {}).get("device_target"),
            **{key: config[key] for key in ("num_layers", "hidden_size", "num_heads", "vocab_size")},
            "n_kv_heads": config.get("n_kv_heads") or config["num_heads"],
            "intermediate_size": intermediate_size(config), "LoRA": bool(config.get("pet_config"))}
