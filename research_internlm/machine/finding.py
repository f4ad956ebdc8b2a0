"""What a check of the machine says: a code with values, whose text is made here only, in English or Chinese.

A module of this room declares its codes as members of a subclass of `Code`, beside the checks that use them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LEVELS = {OK: ("ok", "正常"), WARNING: ("warning", "警告"), PROBLEM: ("problem", "问题")}
_LONGEST = 400  # characters of one value in a sentence; the JSON page has all of it


class Topic(enum.Enum):
    """What a line of the page is about, in the page's order."""

    MACHINE = ("machine", "机器")
    PYTHON = ("Python", "Python")
    PACKAGES = ("packages", "软件包")
    INDEX = ("package index", "软件源")
    NPU = ("NPU", "NPU")
    DRIVER = ("driver", "驱动")
    CANN = ("CANN", "CANN")
    HCCL = ("HCCL", "HCCL")
    MEMORY = ("memory", "内存")
    LIMITS = ("limits", "资源限制")
    DISK = ("disk", "磁盘")
    LOCALE = ("locale", "字符编码")
    CLOCK = ("clock", "时钟")
    VARIABLES = ("variables", "环境变量")
    OBS = ("OBS", "OBS")

    def name_in(self, lang: str) -> str:
        """The topic's name in `en` or `zh`."""
        return self.value[lang == "zh"]


class Code(enum.Enum):
    """What can be found: (topic, sentence in English, the same in Chinese), with the same values in both."""

    def __init__(self, topic: Topic, english: str, chinese: str) -> None:
        self.topic, self.english, self.chinese = topic, english, chinese

    def ok(self, **values: Any) -> Finding:
        """Nothing to do."""
        return Finding(OK, self, values)

    def warning(self, **values: Any) -> Finding:
        """Deserves a look, prevents nothing."""
        return Finding(WARNING, self, values)

    def problem(self, **values: Any) -> Finding:
        """Prevents a training on this machine."""
        return Finding(PROBLEM, self, values)


@dataclass(frozen=True)
class Finding:
    """One line of the page.

    Attributes:
        level: `ok`, `warning` or `problem`.
        code: What it is about.
        values: The values of the code's sentence; JSON values.
    """

    level: str
    code: Code
    values: Mapping[str, Any]

    def text(self, lang: str = "en") -> str:
        """The finding as one line in `en` or `zh`."""
        sentence = self.code.chinese if lang == "zh" else self.code.english
        values = {key: _shown(value) for key, value in self.values.items()}
        return " ".join(sentence.format_map(values).split())


def _shown(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{value[:_LONGEST]}..."
    return value


def texts(findings: Iterable[Finding], level: str) -> list[str]:
    """The English sentences of the findings of one level."""
    return [finding.text() for finding in findings if finding.level == level]
