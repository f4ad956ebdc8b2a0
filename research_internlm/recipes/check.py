"""Checks every key of a recipe against what MindFormers and the named classes accept.

Sections without a class are checked against MindFormers' own template; components with a `type` are
resolved in MindFormers' registry and checked against their constructor. All findings come in one error.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from mindformers.pet.pet_config import LoraConfig
from mindformers.tools.register import MindFormerModuleType as Module
from mindformers.tools.register import MindFormerRegister
from mindformers.tools.register.template import CONFIG_NAME_TO_CLASS, GeneralConfig

from research_internlm.recipes import renamed
from research_internlm.recipes.positions import length_problem
from research_internlm.shared.errors import ToolkitError

# Keys that MindFormers reads although no constructor or template names them.
_TOP_LEVEL_EXTRA = {"metric", "eval_callbacks", "processor", "tensorboard"}
_DATASET_KEYS = {
    "data_loader": dict, "input_columns": list, "num_parallel_workers": int, "python_multiprocessing": bool,
    "drop_remainder": bool, "numa_enable": bool, "prefetch_size": int, "repeat": int,
}
_GENERATION_KEYS = {
    "max_new_tokens": int, "min_new_tokens": int, "eos_token_id": (int, list), "pet_config": dict,
    "checkpoint_name_or_path": str,
}
_CONTEXT_KEYS = {
    "mode": int, "device_target": str, "device_id": int, "max_device_memory": str, "max_call_depth": int,
    "save_graphs": (bool, int), "save_graphs_path": str, "memory_optimize_level": str,
    "mempool_block_size": str, "jit_config": dict, "ascend_config": dict, "runtime_num_threads": int,
}
_PARALLEL_KEYS = {
    "parallel_mode": (int, str), "gradients_mean": bool, "full_batch": bool, "search_mode": str,
    "enable_alltoall": bool, "enable_parallel_optimizer": bool, "strategy_ckpt_config": dict,
    "strategy_ckpt_save_file": str, "parallel_optimizer_config": dict, "dataset_strategy": (str, list),
}
_TENSORBOARD_KEYS = {  # mindformers/utils/tensorboard.py
    "tensorboard_dir": str, "tensorboard_queue_size": int, "log_timers_to_tensorboard": bool,
    "log_loss_scale_to_tensorboard": bool, "log_expert_load_to_tensorboard": bool,
}
_OTHER_MASKS = ("use_ring_attention", "use_attn_mask_compression", "use_eod_attn_mask_compression")
_TEMPLATE_SECTIONS = ("parallel_config", "recompute_config", "runner_config")
_COMPONENTS = {
    "trainer": Module.TRAINER, "optimizer": Module.OPTIMIZER, "lr_schedule": Module.LR,
    "runner_wrapper": Module.WRAPPER, "metric": Module.METRIC, "train_dataset_task": Module.DATASET,
    "eval_dataset_task": Module.DATASET,
}


def check(recipe: Mapping[str, Any]) -> None:
    """Checks every key and the type of every value of a resolved recipe.

    Raises:
        ToolkitError: With all unknown keys, wrong types and unresolvable `type`s at once.
    """
    if found := list(problems(recipe)):
        raise ToolkitError(f"{len(found)} wrong setting(s) in the config: " + "; ".join(found))


def problems(recipe: Mapping[str, Any]) -> Iterable[str]:
    """Unknown keys, wrong types and unresolvable `type`s of a resolved recipe, one sentence each."""
    yield from renamed.problems(recipe)
    general = {key: getattr(GeneralConfig, key) for key in GeneralConfig.keys()}
    yield from _unknown(recipe, {*general, *CONFIG_NAME_TO_CLASS, *_TOP_LEVEL_EXTRA}, "")
    for key, value in recipe.items():
        if key in general and general[key] is not None:
            yield from _wrong_type(value, _accepted(type(general[key]), key), key)
    for section in _TEMPLATE_SECTIONS:
        defaults = CONFIG_NAME_TO_CLASS[section]
        types = {key: _accepted(type(getattr(defaults, key)), key) if getattr(defaults, key) is not None
                 else object for key in defaults.keys()}
        yield from _check_mapping(recipe.get(section), types, section)
    yield from _check_mapping(recipe.get("context"), _CONTEXT_KEYS, "context")
    yield from _check_mapping(recipe.get("parallel"), _PARALLEL_KEYS, "parallel")
    yield from _check_mapping(recipe.get("tensorboard"), _TENSORBOARD_KEYS, "tensorboard")
    if isinstance(recipe.get("tensorboard"), Mapping) and not recipe["tensorboard"].get("tensorboard_dir"):
        yield "tensorboard names no tensorboard_dir, so MindFormers would write nothing"
    for section, module in _COMPONENTS.items():
        if recipe.get(section):
            yield from _check_component(recipe[section], module, section)
    for section in ("train_dataset", "eval_dataset"):
        if recipe.get(section):
            yield from _check_mapping(recipe[section], _DATASET_KEYS, section)
            yield from _check_component(recipe[section].get("data_loader"), Module.DATASET_LOADER,
                                        f"{section}.data_loader", {"dataset_dir": str, "shuffle": bool})
    for section in ("callbacks", "eval_callbacks"):
        for item in recipe.get(section) or []:
            yield from _check_component(item, Module.CALLBACK, section)
    yield from _check_model(recipe.get("model") or {})
    yield from _check_packed(recipe)
    yield from _check_processor(recipe.get("processor"))


def _check_model(model: Mapping[str, Any]) -> Iterable[str]:
    yield from _unknown(model, {"model_config", "arch"}, "model")
    yield from _check_component(model.get("model_config"), Module.CONFIG, "model.model_config",
                                _GENERATION_KEYS)
    yield from _check_component(model.get("arch"), Module.MODELS, "model.arch")
    if problem := length_problem(model.get("model_config") or {}):
        yield problem
    pet = (model.get("model_config") or {}).get("pet_config")
    if pet:
        yield from _check_mapping(pet, {"pet_type": str, **_parameter_types(LoraConfig)},
                                  "model.model_config.pet_config")


def _check_packed(recipe: Mapping[str, Any]) -> Iterable[str]:
    """Settings under which MindFormers takes another mask than the packed one, or none at all."""
    config = (recipe.get("model") or {}).get("model_config") or {}
    parallel = recipe.get("parallel_config") or {}
    if not config.get("packed"):
        return
    others = [f"model.model_config.{key}" for key in _OTHER_MASKS if config.get(key)]
    others += [f"parallel_config.{key}" for key in ("context_parallel", "seq_split_num")
               if (parallel.get(key) or 1) > 1]
    for key in others:
        yield f"{key} does not go with model.model_config.packed: samples of a row would read each other"


def _check_processor(processor: Mapping[str, Any] | None) -> Iterable[str]:
    if processor:
        yield from _check_component(processor, Module.PROCESSOR, "processor",
                                    {"tokenizer": dict, "return_tensors": str})
        yield from _check_component(processor.get("tokenizer"), Module.TOKENIZER, "processor.tokenizer")


def _check_component(value: Any, module: str, where: str, extra: Mapping[str, Any] | None = None
                     ) -> Iterable[str]:
    if not isinstance(value, Mapping) or "type" not in value:
        yield f"{where} needs a mapping with a type, found {value!r}"
        return
    try:
        cls = MindFormerRegister.get_cls(module, value["type"])
    except ValueError:
        if value["type"] not in renamed.TYPES:  # said already
            yield renamed.unknown_type(where, value["type"], module, MindFormerRegister.registry[module])
        return
    settings = {key: item for key, item in value.items() if key != "type"}
    where = f"{where}[{value['type']}]"
    yield from _check_mapping(settings, {**_parameter_types(cls), **(extra or {})}, where)
    for key, item in settings.items():  # nested components such as scale_sense
        if isinstance(item, Mapping) and "type" in item and key not in ("tokenizer", "model_config"):
            yield from _check_component(item, module, f"{where}.{key}")


def _parameter_types(cls: type) -> dict[str, Any]:
    """Constructor parameters of a class and, while it passes on **kwargs, of its bases."""
    types: dict[str, Any] = {}
    for base in cls.__mro__[:-1]:
        # MindFormers' AdamW is a factory: its parameters are those of __new__.
        init = base.__dict__.get("__init__", base.__dict__.get("__new__"))
        if init is None:
            continue
        init = inspect.unwrap(getattr(init, "__func__", init))
        parameters = inspect.signature(init).parameters.values()
        try:
            hints = typing.get_type_hints(init)
        except (NameError, TypeError):
            hints = {}
        for parameter in parameters:
            if parameter.name not in ("self", "cls") and parameter.kind not in (parameter.VAR_KEYWORD,
                                                                   parameter.VAR_POSITIONAL):
                types.setdefault(parameter.name, _type_of(parameter, hints))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return types


def _type_of(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Any:
    hint = hints.get(parameter.name)
    if hint in (int, float, bool, str):
        return _accepted(hint, parameter.name)
    if hint is None and isinstance(parameter.default, bool):
        return bool
    return object


def _accepted(kind: type, key: str) -> Any:
    if key == "resume_training":
        return (bool, str)
    if key == "recompute":
        return (bool, list, int)
    if key == "eos_token_id":
        return (int, list)
    return (int, float) if kind is float else kind if kind in (int, bool, str) else object


def _check_mapping(value: Any, types: Mapping[str, Any], where: str) -> Iterable[str]:
    if value is None:
        return
    if not isinstance(value, Mapping):
        yield f"{where} must be a mapping, found {value!r}"
        return
    yield from _unknown(value, types, where)
    for key, item in value.items():
        if key in types:
            yield from _wrong_type(item, types[key], f"{where}.{key}")


def _unknown(value: Mapping[str, Any], known: Iterable[str], where: str) -> Iterable[str]:
    known = list(known)
    for key in value:
        path = f"{where}.{key}" if where else str(key)
        if key not in known and path not in renamed.KEYS:  # those are said already
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            yield f"unknown key {path}{hint}"


def _wrong_type(value: Any, accepted: Any, where: str) -> Iterable[str]:
    if value is None or accepted is object:
        return
    kinds = accepted if isinstance(accepted, tuple) else (accepted,)
    is_bool_for_number = isinstance(value, bool) and bool not in kinds
    if not isinstance(value, kinds) or is_bool_for_number:
        hint = ""
        if float in kinds and isinstance(value, str):
            hint = " (yaml reads 5e-5 as text; write 5.0e-5)"
        yield (f"{where} must be {' or '.join(kind.__name__ for kind in kinds)}, "
               f"found {value!r}{hint}")
