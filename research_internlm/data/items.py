"""Training items as rendered segments, and the versions of the tasks' wording.

The chat wrapper has a version of its own (chat_template.PROMPT_VERSION), so that a task's new wording
invalidates only the data that holds the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research_internlm.data.chat_template import (
    ALL_ANSWERS,
    LAST_ANSWER,
    render_chat,
    render_messages,
    supervise_last,
)
from research_internlm.data.choice import EXAM_WORDING
from research_internlm.data.conversations import MESSAGES
from research_internlm.data.detection import DETECTION_WORDING, is_detection, render_detection
from research_internlm.data.families import INTERNLM, UPSTREAM_END
from research_internlm.data.segments import Segment, special_token

SQUAD_WORDING = "squad-1"  # raise it when the prompt below changes
WORDINGS = (EXAM_WORDING, SQUAD_WORDING, DETECTION_WORDING)


def render_squad(passage: str, question: str, answer: str | None = None) -> list[Segment]:
    """The contest's SQuAD prompt: plain text after `<s>`, no chat tokens.

    Args:
        passage: The paragraph.
        question: The question on it.
        answer: The answer to train on, ended by `</s>`, or None for the inference prompt.

    Source: mindformers/tools/dataset_preprocess/llama/squad_data_process.py, which trains on the last
    token of the prompt as well; here the prompt is never supervised.
    """
    prompt = [special_token("bos"), Segment(
        "Read the passage and answer the question below.\n\n"
        f"### Instruction:\n{passage}\n\n### Input:\n{question}\n\n### Response:"
    )]
    if answer is None:
        return prompt
    return [*prompt, Segment(answer, supervised=True), special_token("eos", True)]


def render_item(item: Mapping[str, Any], family: str = INTERNLM, end: str = UPSTREAM_END,
                train_on: str = ALL_ANSWERS) -> list[Segment]:
    """Renders a training item: alpaca fields, `messages`, `passage`, `question`, `output` (SQuAD), or a text.

    Reading items among the exam items keep up what the SQuAD gate measures.

    Args:
        item: As the readers of preprocess/ give it.
        family: As for `render_messages`.
        end: As for `render_messages`.
        train_on: ALL_ANSWERS or LAST_ANSWER of a conversation.
    """
    if is_reading(item):
        return render_squad(item["passage"], item["question"], item["output"])
    if is_detection(item):
        return render_detection(item, family, end)
    if MESSAGES in item:
        segments = render_messages(item[MESSAGES], family, end)
        return supervise_last(segments) if train_on == LAST_ANSWER else segments
    return render_chat(item["instruction"], item["input"], item["output"], family, end)


def is_reading(item: Mapping[str, Any]) -> bool:
    """Whether an item is a question on a passage, in the SQuAD prompt."""
    return "passage" in item
