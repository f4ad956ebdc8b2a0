"""Libraries that only some commands need; setup.cfg lists them as extras."""

from __future__ import annotations

import importlib
from types import ModuleType

from research_internlm.shared.errors import ToolkitError


def load_extra(module: str, extra: str) -> ModuleType:
    """Imports a module of an extra.

    Args:
        module: Its full name.
        extra: The extra of setup.cfg that brings it.

    Raises:
        ToolkitError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ToolkitError(f"the Python package {module.split('.')[0]} is not installed or cannot be loaded "
                           f"({error}); run pip install -e '.[{extra}]' in the toolkit's folder") from None
