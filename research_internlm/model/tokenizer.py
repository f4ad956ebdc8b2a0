"""InternLM's tokenizer for MindFormers.

The toolkit's own steps encode with research_internlm.data.chat_template; this class is for the places where
MindFormers wants a tokenizer of its own (yaml `processor.tokenizer`, MindFormers' pipelines).
"""

from __future__ import annotations

from typing import Any

from mindformers.models.llama import LlamaTokenizer
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from research_internlm.data.tokens import load_tokenizer


@MindFormerRegister.register(MindFormerModuleType.TOKENIZER)
class InternLMTokenizer(LlamaTokenizer):
    """MindFormers' Llama tokenizer over InternLM's SentencePiece model.

    Args:
        vocab_file: Path of tokenizer.model; its special ids are checked.
        **kwargs: Everything LlamaTokenizer takes; text in a prompt never becomes a special token unless
            it is spelled exactly as one.

    Raises:
        ToolkitError: The file is missing or its special tokens are not InternLM's.
    """

    def __init__(self, vocab_file: str, **kwargs: Any) -> None:
        load_tokenizer(vocab_file)
        super().__init__(vocab_file=str(vocab_file), **kwargs)
