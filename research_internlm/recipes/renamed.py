"""Names in recipes of 2024 (MindFormers 1.1) that MindFormers 1.9.0 does not know, and what to write today.

No MindSpore is needed, so the plan says them too.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

KEYS = {  # dotted path -> advice
    **dict.fromkeys(("auto_tune", "autotune_per_step", "filepath_prefix", "context.enable_graph_kernel",
                     "context.graph_kernel_flags"), "leave it out"),
}
TYPES = {  # name of a component -> advice
    "CheckpointMointor": "write CheckpointMonitor",
    "FP32StateAdamWeightDecay": "write AdamW, and betas: [B1, B2] in place of beta1 and beta2",
    "ObsMonitor": "leave it out; --mirror of scripts/train_msrun.sh copies a run to OBS",
}
_OLD = "a name of MindFormers 1.1"


def problems(recipe: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each old name in a resolved recipe."""
    for path, advice in KEYS.items():
        *sections, key = path.split(".")
        section = recipe.get(sections[0]) if sections else recipe
        if key in (section or {}):
            yield f"unknown key {path}, {_OLD}: {advice}"
    components = [("optimizer", recipe.get("optimizer") or {})]
    components += [(section, item) for section in ("callbacks", "eval_callbacks")
                   for item in recipe.get(section) or []]
    for section, component in components:
        if component.get("type") in TYPES:
            yield unknown_type(section, component["type"], section, ())


def unknown_type(where: str, name: str, kind: str, known: Collection[str]) -> str:
    """Says that MindFormers has no component of this name, and which one may be meant.

    Args:
        where: The component's place in the recipe.
        name: Its type.
        kind: What MindFormers calls such components.
        known: Names that it has.
    """
    if name in TYPES:
        return f"{where}.type {name!r} is not registered with MindFormers ({_OLD}): {TYPES[name]}"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return (f"{where}.type {name!r} is not registered with MindFormers as a {kind}"
            + (f" (did you mean {close[0]}?)" if close else ""))
