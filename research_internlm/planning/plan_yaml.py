"""Writes a plan's numbers: a copy of the recipe with them in place, or a yaml that extends what was planned.

The written yaml has to resolve to exactly the recipe the numbers were derived from, so with overlays and
key.path=value arguments it holds these too; a check before writing says so where it cannot.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from research_internlm import recipes
from research_internlm.recipes.schedule import CheckpointPlan
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import require_absent, write_text


def write_plan(layers: Sequence[str | Path], overrides: Sequence[str], numbers: recipes.Recipe,
               path: str | Path, overwrite: bool, extend: bool = False) -> Path:
    """Writes the planned recipe with the derived numbers.

    A recipe by itself is copied with the numbers in place, comments kept. One that extends others holds few
    of the keys, and overlays and arguments are not part of it, so then a yaml that extends them is written.

    Args:
        layers: The recipe, and the overlays on it.
        overrides: `key.path=value` arguments of the plan.
        numbers: From `derived_numbers`, or a choice's from search.py.
        path: The yaml to write.
        overwrite: Replace an existing file, a lone recipe itself included.
        extend: Write a yaml that extends in any case: the numbers have keys that the recipe may lack.

    Raises:
        ToolkitError: The output exists, cannot be written, is one of the layers, or cannot say the same.
    """
    path = require_absent(path, overwrite)
    config = Path(layers[0])
    text = config.read_text(encoding="utf-8")
    if extend or len(layers) > 1 or overrides or "extends" in recipes.load_yaml(config):
        text = _extension(layers, overrides, numbers, path)
    else:
        text = set_scalars(text, dict(_flat(numbers)), config)
    try:
        write_text(path, text)
    except OSError as error:
        raise ToolkitError(f"--write {path} cannot be written ({error.strerror}); name a file in a folder of "
                           "your own") from error
    return path


def derived_numbers(plan: CheckpointPlan, cards: int) -> recipes.Recipe:
    """The plan's numbers under the keys of a recipe."""
    monitor = {"type": "CheckpointMonitor", "save_checkpoint_steps": plan.interval,
               "keep_checkpoint_max": plan.keep}
    return {"eval_step_interval": plan.eval_interval, "callbacks": [monitor],
            "parallel_config": {"data_parallel": cards}}


def _extension(layers: Sequence[str | Path], overrides: Sequence[str], numbers: recipes.Recipe, path: Path
               ) -> str:
    """Text of a yaml that extends the layers by overrides and numbers."""
    if path.exists() and any(path.samefile(file) for layer in layers for file in _files_of(layer)):
        raise ToolkitError(f"--write {path}: a file cannot be replaced by one that extends it; give another "
                           "name")
    recipe = recipes.resolve(layers[0], layers[1:], overrides)
    change: recipes.Recipe = {}
    for override in overrides:
        keys, _, value = override.partition("=")
        change = recipes.merge(change, _nested(recipe, keys.split("."), yaml.safe_load(value)))
    change = recipes.merge(change, numbers)
    if recipes.merge(recipes.resolve(layers[0], layers[1:]), change) != recipes.merge(recipe, numbers):
        raise ToolkitError(f"--write {path}: {' '.join(overrides)} replace whole sections, which a yaml that "
                           "extends the recipe cannot; give their keys one by one, or put them into an "
                           "overlay")
    extends = {"extends": [os.path.relpath(layer, path.parent) for layer in layers]}
    return ("# Written by research_internlm/plan.py: what was planned, and the numbers derived from "
            "it.\n\n" + yaml.safe_dump({**extends, **change}, sort_keys=False, allow_unicode=True))


def _files_of(path: str | Path) -> Iterator[Path]:
    """A yaml and all that it extends."""
    yield Path(path)
    for name in recipes.load_yaml(path).get("extends", []):
        yield from _files_of(Path(path).parent / name)


def _nested(node: Any, keys: Sequence[str], value: Any) -> Any:
    """A change of one value in the shape `recipes.merge` lays over `node`."""
    if not keys:
        return value
    key, *rest = keys
    if isinstance(node, list):
        component = next(item for item in node if item["type"] == key)
        return [{"type": key, **_nested(component, rest, value)}]
    return {key: _nested(node.get(key) if isinstance(node, dict) else None, rest, value)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each scalar; components go by their type."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            for item in value:
                rest = {name: scalar for name, scalar in item.items() if name != "type"}
                yield from _flat(rest, f"{prefix}{key}.{item['type']}.")
        else:
            yield prefix + key, value


def set_scalars(text: str, values: Mapping[str, Any], path: str | Path) -> str:
    """Replaces scalar values in yaml text and leaves everything else, comments included, as it is.

    Args:
        text: The yaml file.
        values: Dotted key path -> value; `callbacks.CheckpointMonitor.x` finds the component by its type.
        path: The file's name, for messages.

    Raises:
        ToolkitError: The yaml has no such key to replace; all missing keys are named.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found = {key: _scalar_at(root, key.split(".")) for key in values}
    missing = [key for key, node in found.items() if node is None]
    if missing:
        raise ToolkitError(f"{path} has no {', '.join(missing)} to write a number into; add the key(s) first")
    for key, node in sorted(found.items(), key=lambda item: -item[1].start_mark.index):
        text = text[:node.start_mark.index] + str(values[key]) + text[node.end_mark.index:]
    return text


def _scalar_at(node: yaml.Node, keys: Sequence[str]) -> yaml.ScalarNode | None:
    for key in keys:
        if isinstance(node, yaml.SequenceNode):
            node = next((item for item in node.value if _value_of(item, "type") is not None
                         and _value_of(item, "type").value == key), None)
        else:
            node = _value_of(node, key)
    return node if isinstance(node, yaml.ScalarNode) else None


def _value_of(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)
