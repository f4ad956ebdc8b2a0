"""The files that tell other tools how a model's texts become ids: tokenizer.json, tokenizer_config.json with
the chat template, and the ids at which generation ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from research_internlm.checkpoints import hf_config
from research_internlm.checkpoints.tokenizer_json import (
    OnlyOursError,
    added_tokens,
    read_vocabulary,
    tokenizer_json,
)
from research_internlm.data.chat_template import render_turn
from research_internlm.data.families import ASSISTANT, FAMILIES, UPSTREAM_END
from research_internlm.data.segments import Segment
from research_internlm.data.tokens import SpecialTokens, load_tokenizer, special_tokens
from research_internlm.shared.errors import ToolkitError

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")
_CONTENT = "\0"  # stands for a message's text while a turn is made into a template
_DUMMY_PREFIX = "\u2581"


def tokenizer_texts(model_file: Path, model_config: Mapping[str, Any]) -> dict[str, str]:
    """The text files beside tokenizer.model, and generation_config.json with the ids generation stops at.

    Raises:
        ToolkitError: The vocabulary is not that of the weights.
        OnlyOursError: Other tools cannot reproduce its ids.
    """
    processor = load_tokenizer(model_file)
    special = special_tokens(processor)
    if special.vocab_size != model_config["vocab_size"]:
        raise ToolkitError(f"{model_file} has {special.vocab_size} pieces, the config's vocab_size is "
                           f"{model_config['vocab_size']}; give the tokenizer.model of these weights")
    try:
        vocabulary = read_vocabulary(processor)
    except OnlyOursError as error:
        raise OnlyOursError(f"{model_file}: {error}") from None
    texts = _texts(processor, special)
    plain = {"unk", "bos", "eos"}
    return {
        "tokenizer.json": tokenizer_json(vocabulary, texts),
        "tokenizer_config.json": _json({
            # It takes tokenizer.json as it is; LlamaTokenizer builds another one, in each version otherwise.
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{role}_token": texts[special[role]] for role in sorted(plain)},
            "pad_token": texts[special["unk"]], "add_bos_token": True, "add_eos_token": False,
            "clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"],
            # llama.cpp's converter knows the prefix and the special tokens from here alone.
            "add_prefix_space": False,
            "added_tokens_decoder": added_tokens(vocabulary, texts),
            "additional_special_tokens": [text for id_, text in texts.items()
                                          if id_ not in {special[role] for role in plain}],
            "chat_template": chat_template(processor, special, texts.__getitem__)}),
        "generation_config.json": _json({**hf_config.generation_config(model_config),
                                         "eos_token_id": list(special.stop_ids)}),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2)


def _texts(processor: SentencePieceProcessor, special: SpecialTokens) -> dict[int, str]:
    """Id to text of the special tokens, as the releases of their family call them."""
    names = FAMILIES[special.family].release_texts
    named = {processor.piece_to_id(piece) for piece in names} - {processor.unk_id()}  # a rehearsal lacks some
    pieces = {id_: processor.id_to_piece(id_) for id_ in {*named, *(id_ for _, id_ in special.all_ids())}}
    return {id_: names.get(piece, piece) for id_, piece in sorted(pieces.items())}


def chat_template(processor: SentencePieceProcessor, special: SpecialTokens, text_of: Callable[[int], str]
                  ) -> str:
    """A chat template of any number of turns that prompts as training did: the ids of render_messages.

    transformers encodes an earlier answer together with the text before it. That gives the same ids, unless
    the answer begins with a character that the vocabulary joins to that text: a newline in ChatML, a
    newline or one of many punctuation marks after InternLM's `<|Bot|>:`.

    Args:
        processor: The vocabulary.
        special: Its special ids.
        text_of: Gives the text under which the reader of the prompt knows a special token.
    """
    row = FAMILIES[special.family]

    def branch(role: str, is_last: bool) -> str:
        segments = render_turn({"role": role, "content": _CONTENT}, row.name, UPSTREAM_END, is_last)
        return f"message['role'] == {role!r}{' and loop.last' if is_last else ''} %}}" + spelled(segments)

    def spelled(segments: Iterable[Segment]) -> str:
        return "{{ " + _expression(segments, processor, special, text_of) + " }}"

    turns = [branch(ASSISTANT, True), *(branch(role, False) for role in row.turns)]
    unknown = f"{{{{ raise_exception('a message has a role other than {', '.join(row.turns)}') }}}}"
    opening = spelled(row.turns[ASSISTANT].before)
    return ("{{ '<s>' }}{% for message in messages %}{% if " + "{% elif ".join(turns)
            + "{% else %}" + unknown + "{% endif %}{% endfor %}{% if not messages or "
            f"messages[-1]['role'] != {ASSISTANT!r} %}}{opening}{{% endif %}}")


def _expression(segments: Iterable[Segment], processor: SentencePieceProcessor, special: SpecialTokens,
                text_of: Callable[[int], str]) -> str:
    """A Jinja expression of the segments' text; as plain text Jinja would drop newlines here and there."""
    prefix = " " if processor.encode("a", out_type=str)[0].startswith(_DUMMY_PREFIX) else ""
    text, follows_text = "", False
    for segment in segments:
        if segment.is_token:
            text += text_of(special[segment.content])
        else:
            # Training encodes the second of two texts on its own, with the dummy prefix.
            text += prefix * follows_text + segment.content
        follows_text = not segment.is_token
    return " + message['content'] + ".join(map(repr, text.split(_CONTENT)))
