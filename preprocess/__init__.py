"""Exam csv to instruction JSON to MindRecord."""

import research_internlm  # noqa: F401 (decides protobuf's implementation before sentencepiece does)
