"""The structure of a recipe: which of its settings are mappings, lists, texts or switches.

The toolkit reads these before MindFormers' classes can be asked (recipes/check.py, which needs MindSpore), in
the plan, the launcher and the data checks. A recipe of another structure is refused here, all of it at once.
Numbers are checked where they are computed with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from research_internlm.shared.errors import ToolkitError

_MAPPING, _LIST = "a mapping of settings", "a list of components that each have a type"
_TEXT, _FLAG, _NULLABLE = "str", "bool", "null"
_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((
        "model", "model.model_config", "model.arch", "runner_config", "context", "parallel", "optimizer",
        "lr_schedule", "runner_wrapper", "runner_wrapper.scale_sense", "train_dataset",
        "train_dataset.data_loader", "eval_dataset", "eval_dataset.data_loader", "recompute_config",
        "parallel_config", "trainer"), (_MAPPING,)),
    "runner_wrapper.scale_sense": (_MAPPING, _NULLABLE),
    "recompute_config": (_MAPPING, _FLAG, _NULLABLE),
    "model.model_config.pet_config": (_MAPPING, _NULLABLE),
    **dict.fromkeys(("callbacks", "eval_callbacks"), (_LIST, _NULLABLE)),
    **dict.fromkeys(("run_mode", "output_dir", "context.device_target", "model.model_config.type",
                     "train_dataset.data_loader.dataset_dir", "eval_dataset.data_loader.dataset_dir",
                     "load_ckpt_format"), (_TEXT, _NULLABLE)),
    "load_checkpoint": (_TEXT, _NULLABLE),
    "resume_training": (_FLAG, _TEXT, _NULLABLE),
    **dict.fromkeys(("use_parallel", "do_eval", "runner_config.sink_mode", "model.model_config.packed",
                     "model.model_config.use_flash_attention", "train_dataset.drop_remainder",
                     "eval_dataset.drop_remainder"), (_FLAG, _NULLABLE)),
}


def require_structure(recipe: Mapping[str, Any]) -> None:
    """Checks the kind of every setting that the toolkit itself reads.

    Args:
        recipe: The merged recipe.

    Raises:
        ToolkitError: With every setting that is of another kind.
    """
    if problems := list(_wrong(recipe)):
        raise ToolkitError(f"{len(problems)} wrong setting(s) in the config: {'; '.join(problems)}")


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
