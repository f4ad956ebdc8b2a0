"""Recipes: a yaml, the overlays on it, the command line over both, and the check of every key.

Defaults < yaml < overlays in order < `key.path=value` arguments. A yaml may begin with `extends`, a list
of yaml files it is laid over, so that no recipe is a near copy of another. A list of components (each with
a `type`, as `callbacks` has) merges by type, so an overlay or an argument can name
`callbacks.CheckpointMonitor.save_checkpoint_steps`, and `callbacks.X=null` takes X out. The result is checked
against what MindFormers' template and the named classes accept before anything is built: MindFormers itself
ignores an unknown key with a warning in a long log, which is how settings get lost.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from research_internlm.recipes.structure import require_structure
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_text, write_text
from research_internlm.shared.parsing import parse_yaml

Recipe = dict[str, Any]


class _PlainDumper(yaml.SafeDumper):
    """Writes shared sub-trees out in full: a resolved config must read without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def parse_command_line(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
                       ) -> argparse.Namespace:
    """Parses flags and, anywhere among them, `key.path=value` overrides.

    Args:
        parser: The entry point's flags.
        argv: Arguments; None reads the command line.

    Returns:
        The namespace with `overrides`, the list of `key.path=value` arguments.
    """
    arguments, rest = parser.parse_known_args(argv)
    unknown = [text for text in rest if text.startswith("-") or "=" not in text]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.overrides = rest
    return arguments


def load_yaml(path: str | os.PathLike) -> Recipe:
    """Reads one yaml file that holds a mapping.

    Raises:
        ToolkitError: Missing, not yaml, or not a mapping; with line and column.
    """
    value = parse_yaml(read_text(path, "the config"), f"the config {path}")
    if not isinstance(value, dict):
        raise ToolkitError(f"{path} is not a mapping of settings at its top level")
    return value


def load_layers(path: str | os.PathLike, above: Sequence[Path] = ()) -> Recipe:
    """Reads a yaml file and, below it, the files its `extends` names (relative to it), in order.

    Args:
        path: The yaml file.
        above: The files that extend this one.

    Raises:
        ToolkitError: A file cannot be read, `extends` is not a file name or a list of them, or a file extends
            itself.
    """
    change = load_yaml(path)
    own = Path(path).resolve()
    if own in above:
        raise ToolkitError(f"{path} extends itself: " + " -> ".join(file.name for file in (*above, own)))
    names = change.pop("extends", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ToolkitError(f"{path}: extends is {names!r:.60}, a yaml file or a list of them "
                           "was expected")
    below: Recipe = {}
    for name in names:
        below = merge(below, load_layers(Path(path).parent / name, (*above, own)))
    return merge(below, change) if below else change  # unmerged, an alias stays one setting


def resolve(config: str | os.PathLike, overlays: Sequence[str | os.PathLike] = (),
            overrides: Sequence[str] = (), mode: str | None = None, given: Collection[str] = ()) -> Recipe:
    """Merges a recipe with its overlays and command-line values.

    Args:
        config: The recipe yaml.
        overlays: Yaml files that change some of its keys, later ones win.
        overrides: `key.path=value` strings; the value is read as yaml.
        mode: What the recipe is for, as `require_structure` has it; None where nothing is needed of it.
        given: Settings that the caller sets afterwards, so that the recipe need not have them.

    Returns:
        A new mapping with no shared sub-trees.

    Raises:
        ToolkitError: A file cannot be read, an override names a key that the recipe does not have, a setting
            is of another form than the toolkit reads, or one that `mode` needs is missing.
    """
    recipe = load_layers(config)
    for overlay in overlays:
        recipe = merge(recipe, load_layers(overlay))
    for override in overrides:
        _apply_override(recipe, override)
    require_structure(recipe, mode, given)
    return yaml.safe_load(yaml.dump(recipe, Dumper=_PlainDumper))


def merge(base: Any, change: Any) -> Any:
    """Lays `change` over `base`: mappings by key, lists of components by type, all else replaced."""
    if isinstance(base, dict) and isinstance(change, dict):
        return {**base, **{key: merge(base.get(key), value) for key, value in change.items()}}
    if _is_components(base) and _is_components(change):
        merged = {item["type"]: item for item in base}
        for item in change:
            merged[item["type"]] = merge(merged.get(item["type"]), item)
        return list(merged.values())
    return copy.deepcopy(change)


def _is_components(value: Any) -> bool:
    return (isinstance(value, list) and bool(value)
            and all(isinstance(item, dict) and isinstance(item.get("type"), str) for item in value))


def _apply_override(recipe: Recipe, override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ToolkitError(f"argument {override!r} is not of the form key.path=value")
    *parents, last = path.split(".")
    node: Any = recipe
    for part in parents:
        node = _child(node, part, override)
    value = parse_yaml(text, f"{override}: the value")
    if value is None and _is_components(node):  # callbacks.X=null takes a component out
        node.remove(_child(node, last, override))
        return
    if not isinstance(node, dict):
        raise ToolkitError(f"{override}: {'.'.join(parents)} is not a mapping in the config")
    node[last] = value


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, dict) and part in node:
        return node[part]
    if _is_components(node):
        for item in node:
            if item["type"] == part:
                return item
        known = ", ".join(item["type"] for item in node)
    else:
        known = ", ".join(map(str, node)) if isinstance(node, dict) else "nothing below it"
    raise ToolkitError(f"{override}: the config has no {part!r} there; it has {known}")


def callback(recipe: Mapping[str, Any], type_name: str) -> dict[str, Any] | None:
    """The settings of one callback of the recipe, or None."""
    return next((item for item in recipe.get("callbacks") or [] if item.get("type") == type_name), None)


def model_config(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's `model.model_config`.

    Raises:
        ToolkitError: It has none.
    """
    model = recipe.get("model")
    found = model.get("model_config") if isinstance(model, Mapping) else None
    if not isinstance(found, dict):
        raise ToolkitError("the config has no model.model_config")
    return found


def write_resolved(recipe: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Writes the merged recipe as yaml; done before step 1, so a run always says what it was."""
    path = Path(path)
    write_text(path, "# Written by run_internlm.py: recipe, overlays and arguments merged. Do not edit.\n"
               + yaml.dump(dict(recipe), Dumper=_PlainDumper, sort_keys=False, allow_unicode=True))
    return path
