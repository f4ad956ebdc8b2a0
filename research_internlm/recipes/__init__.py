"""What a run was asked for: the recipe, its checks against MindFormers and the data, its schedule."""

from research_internlm.recipes.recipe import (
    Recipe,
    callback,
    load_layers,
    load_yaml,
    merge,
    model_config,
    parse_command_line,
    resolve,
    write_resolved,
)

__all__ = ["Recipe", "callback", "load_layers", "load_yaml", "merge", "model_config", "parse_command_line",
           "resolve", "write_resolved"]
