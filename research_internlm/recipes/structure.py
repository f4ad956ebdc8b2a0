"""The structure of a recipe: which settings it needs, and which are mappings, lists, texts or switches.

The toolkit reads these before MindFormers' classes can be asked (recipes/check.py, which needs MindSpore), in
the plan, the launcher and the data checks. A recipe of another structure is refused here, all of it at once.
Numbers are checked where they are computed with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from research_internlm.shared.errors import ToolkitError

RUN_MODES = ("finetune", "eval", "predict")
OWN_MODE = "the recipe's own run_mode"
_MODEL = ("model.model_config.type", *(f"model.model_config.{key}" for key in (
    "seq_length", "hidden_size", "num_layers", "num_heads", "vocab_size")))
_PREDICT = (*_MODEL, "model.arch.type", "context.device_target", "trainer.type")
_RUN = (*_PREDICT, "runner_config.batch_size")
# What is read without asking whether it is there, by the toolkit or by MindFormers' Trainer.
_NEEDED: dict[str, tuple[str, ...]] = {
    "finetune": (*_RUN, "runner_config.epochs", "train_dataset.data_loader.type", "train_dataset_task.type",
                 "optimizer.type", "lr_schedule.type", "lr_schedule.learning_rate", "runner_wrapper.type",
                 "callbacks"),
    "eval": (*_RUN, "eval_dataset.data_loader.type", "eval_dataset_task.type", "metric.type"),
    "predict": _PREDICT,
    "evaluation in training": ("eval_dataset.data_loader.type", "eval_dataset_task.type", "metric.type"),
}
_MAPPING, _LIST = "a mapping of settings", "a list of components that each have a type"
_TEXT, _FLAG, _NULLABLE = "str", "bool", "null"
_MAPPINGS = ("model", "model.model_config", "model.arch", "runner_config", "context", "parallel", "optimizer",
             "lr_schedule", "runner_wrapper", "runner_wrapper.scale_sense", "train_dataset",
             "train_dataset.data_loader", "eval_dataset", "eval_dataset.data_loader", "recompute_config",
             "parallel_config", "trainer", "train_dataset_task", "eval_dataset_task", "metric")
_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_MAPPINGS, (_MAPPING,)),
    **dict.fromkeys((f"{path}.type" for path in _MAPPINGS), (_TEXT, _NULLABLE)),
    "runner_wrapper.scale_sense": (_MAPPING, _NULLABLE),
    "recompute_config": (_MAPPING, _NULLABLE),
    "model.model_config.pet_config": (_MAPPING, _NULLABLE),
    **dict.fromkeys(("callbacks", "eval_callbacks"), (_LIST, _NULLABLE)),
    **dict.fromkeys(("run_mode", "output_dir", "context.device_target",
                     "model.model_config.param_init_type", "model.model_config.pet_config.param_init_type",
                     "train_dataset.data_loader.dataset_dir", "eval_dataset.data_loader.dataset_dir",
                     "load_ckpt_format"), (_TEXT, _NULLABLE)),
    "load_checkpoint": (_TEXT, _NULLABLE),
    "resume_training": (_FLAG, _TEXT, _NULLABLE),
    **dict.fromkeys(("use_parallel", "do_eval", "runner_config.sink_mode", "model.model_config.packed",
                     "model.model_config.use_flash_attention", "train_dataset.drop_remainder",
                     "eval_dataset.drop_remainder"), (_FLAG, _NULLABLE)),
}


def require_structure(recipe: Mapping[str, Any], mode: str | None = None, given: Collection[str] = ()
                      ) -> None:
    """Checks the kind of every setting that the toolkit itself reads, and that the needed ones are there.

    Args:
        recipe: The merged recipe.
        mode: What it is for: one of RUN_MODES, or OWN_MODE; None for a part of a recipe, which needs nothing.
        given: Settings that flags of the command line say, wherever they are missing.

    Raises:
        ToolkitError: With every setting that is missing or of another kind.
    """
    if problems := [*_wrong(recipe), *_missing(recipe, mode, given)]:
        raise ToolkitError(f"{len(problems)} wrong setting(s) in the config: {'; '.join(problems)}")


def _missing(recipe: Mapping[str, Any], mode: str | None, given: Collection[str]) -> Iterator[str]:
    if mode == OWN_MODE:
        mode = recipe.get("run_mode")
        if mode not in RUN_MODES and (mode is None or isinstance(mode, str)):
            yield f"run_mode must be {' or '.join(RUN_MODES)}, found {mode!r:.60}; pass --run_mode"
            return
    needed = _NEEDED.get(mode, ()) if isinstance(mode, str) else ()
    if mode == "finetune" and recipe.get("do_eval") is True:
        needed += _NEEDED["evaluation in training"]
    absent: dict[str, None] = {}  # the outermost part that is missing, each once
    for path in needed:
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            below = ".".join(parts[:end])
            value = _value(recipe, below, None)
            if value is None and path not in given:
                absent[below] = None
            if not isinstance(value, Mapping):  # of another kind: said by _wrong
                break
    if absent:
        yield (f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing, which run_mode {mode} "
               "needs")


def _wrong(recipe: Mapping[str, Any]) -> Iterator[str]:
    for path, kinds in _KINDS.items():
        value = _value(recipe, path, absent := object())
        if value is not absent and not any(_fits(value, kind) for kind in kinds):
            yield f"{path} must be {' or '.join(kinds)}, found {value!r:.60}"


def _value(recipe: Mapping[str, Any], path: str, absent: Any) -> Any:
    value: Any = recipe
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return absent
        value = value[part]
    return value


def _fits(value: Any, kind: str) -> bool:
    if kind == _MAPPING:
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if kind == _LIST:
        return isinstance(value, list) and all(
            isinstance(item, Mapping) and isinstance(item.get("type"), str) for item in value)
    if kind == _FLAG:
        return isinstance(value, bool)
    return isinstance(value, str) if kind == _TEXT else value is None
