"""Imports what MindFormers must know by name: the classes that register themselves with it.

Commands import this before a recipe is checked or a model is built.
"""

from research_internlm.model import config, modeling, tokenizer  # noqa: F401
from research_internlm.training import accumulation, answer_monitor, callbacks, train_log  # noqa: F401
