"""InternLM on MindFormers: the model, its prompts and records, training, evaluation, submission."""

import os

# MindSpore 2.9.0's generated message classes need protobuf's Python implementation, and the first import of
# protobuf in a process decides, whoever makes it: sentencepiece and transformers do too.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
