"""The recipe of a model that answers: resolved, and every key checked."""

from __future__ import annotations

from collections.abc import Sequence

from research_internlm import recipes
from research_internlm.recipes.schedule import whole_number


def predict_recipe(config: str, overlays: Sequence[str], overrides: Sequence[str],
                   device_target: str | None = None) -> recipes.Recipe:
    """Resolves and checks the recipe of an evaluation, a chat or a server.

    The caller has imported training/registered.py, which makes our classes known to the check.

    Args:
        config: The predict recipe.
        overlays: Yaml files laid over it.
        overrides: `key.path=value`.
        device_target: In place of the recipe's, if given.

    Raises:
        ToolkitError: A file is missing or a key is wrong.
    """
    from research_internlm.recipes.check import check

    recipe = recipes.resolve(config, overlays, overrides, "predict",
                             {"context.device_target"} if device_target else ())
    if device_target:
        recipe.setdefault("context", {})["device_target"] = device_target
    check(recipe)
    for key in ("seq_length", "vocab_size"):
        whole_number(recipe, f"model.model_config.{key}")
    whole_number(recipe, "runner_config.batch_size", default=1)
    return recipe
