"""The evaluation tasks by name. Registering one is a line here; evaluate.py makes the sub-command of it."""

from __future__ import annotations

from types import MappingProxyType

from research_internlm.evaluation.detection import DetectionTask
from research_internlm.evaluation.mmlu import MmluTask
from research_internlm.evaluation.squad import SquadTask
from research_internlm.evaluation.task import Task
from research_internlm.evaluation.text_loss import LossTask

TASKS: MappingProxyType[str, type[Task]] = MappingProxyType({task.name: task for task in (
    MmluTask,
    SquadTask,
    DetectionTask,
    LossTask,
)})
