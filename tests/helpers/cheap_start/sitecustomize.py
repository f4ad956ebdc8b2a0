"""Makes each Python process that has this folder on its PYTHONPATH start with less work.

MindFormers imports torch where it is installed, for TensorBoard's sake: 6 s of CPU a process; torch is
hidden. For a metric and a loader that no recipe names it imports NLTK and datasets, which load scikit-learn,
SciPy's statistics and pandas: 3 of 8 s; empty modules stand in for these two. Others stand in for what
MindSpore itself loads for tables of Ascend's AI CPU, data sets in OBS and metrics of images: 1 s of 4.
Collecting garbage again and again while libraries load is a seventh of what is left. Bytecode is kept even
under PYTHONDONTWRITEBYTECODE, where each process would compile the toolkit anew: 1 s.
"""

import gc
import sys
from importlib.machinery import ModuleSpec, PathFinder

EMPTY = ("datasets", "nltk", "mindspore.ops._op_impl.aicpu", "mindspore.dataset.engine.obs.util",
         "mindspore.train.metrics.hausdorff_distance", "mindspore.train.metrics.mean_surface_distance",
         "mindspore.train.metrics.root_mean_square_surface_distance")


class OnlyWhatIsUsed(PathFinder):
    """Finds every package but torch, as where the extra [hf] is not installed, and those of EMPTY empty."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname == "torch":
            return None
        if fullname.startswith(EMPTY) and any(f"{fullname}.".startswith(f"{name}.") for name in EMPTY):
            return ModuleSpec(fullname, Empty, is_package=True)
        return super().find_spec(fullname, path, target)


class Empty:
    """Loads a module in which every public name is None."""

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        module.__getattr__ = _nothing


def _nothing(name):
    if name.startswith("_"):
        raise AttributeError(name)


if PathFinder in sys.meta_path:
    sys.meta_path[sys.meta_path.index(PathFinder)] = OnlyWhatIsUsed
gc.set_threshold(50_000, 20, 20)
sys.dont_write_bytecode = False
