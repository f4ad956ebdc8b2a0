"""Hides torch from each Python process that has this folder on its PYTHONPATH.

MindFormers imports torch where it is installed, for TensorBoard's sake: 6 s of CPU a process.
"""

import sys
from importlib.machinery import PathFinder


class WithoutTorch(PathFinder):
    """Finds every package but torch, as where the extra [hf] is not installed."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname == "torch" else super().find_spec(fullname, path, target)


if PathFinder in sys.meta_path:
    sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
