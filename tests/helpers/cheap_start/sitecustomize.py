"""Makes each Python process that has this folder on its PYTHONPATH start with less work.

MindFormers imports torch where it is installed, for TensorBoard's sake: 6 s of CPU a process; torch is
hidden. Collecting garbage again and again while libraries load is a seventh of what is left.
"""

import gc
import sys
from importlib.machinery import PathFinder


class WithoutTorch(PathFinder):
    """Finds every package but torch, as where the extra [hf] is not installed."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname == "torch" else super().find_spec(fullname, path, target)


if PathFinder in sys.meta_path:
    sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
gc.set_threshold(50_000, 20, 20)
