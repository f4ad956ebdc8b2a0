"""The owner of model families: all that tells InternLM, InternLM2 and InternLM3 apart, one row a family.

A new family is one row here, a config and a model class in model/ where its network differs, and an overlay
in yaml/overlays with the sizes of its releases. Releases that differ in sizes alone (InternLM2.5) need the
overlay only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from research_internlm.data.segments import Segment, special_token

INTERNLM, INTERNLM2, INTERNLM3 = "internlm", "internlm2", "internlm3"
# How Hugging Face's tensors are named: as Llama's, or as InternLM2's, whose wq, wk and wv are one tensor.
LLAMA_NAMES, INTERNLM2_NAMES = "llama", "internlm2"
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"  # roles of messages, as OpenAI's API names them
UPSTREAM_END = "eoa"  # the way of ending an answer that everyone trains with


@dataclass(frozen=True)
class Turn:
    """What stands around the content of a message.

    Attributes:
        before: Ends in a text. A system's or user's content joins that text; an assistant's is encoded on
            its own, because the prompt of inference ends there.
        after: Follows the content; for an assistant, it follows the end marker where another turn comes.
    """

    before: tuple[Segment, ...]
    after: tuple[Segment, ...]


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        name: The row's key.
        title: The name in messages to people.
        pieces: Role of a special token -> its piece, and where that piece must lie in the vocabulary. A
            negative position counts from the end.
        turns: Role of a message -> what stands around it.
        end_markers: Name of a way to end an answer -> roles of the special tokens. The first one is where
            generation stops; the others only close the text, and a further turn takes their place.
        vocab_size: Rows of the releases' embedding.
        config_type: Class of `model.model_config.type`.
        has_bias: Whether wq, wk, wv and wo have biases, where the recipe does not say.
        rms_norm_eps: The norms' epsilon, where the recipe does not say.
        theta: Base of the rotary angles, where the recipe does not say.
        hf_model_type: `model_type` in the releases' config.json.
        hf_bias_key: That file's key for the attention biases.
        hf_names: LLAMA_NAMES or INTERNLM2_NAMES, the spelling of the releases' tensors.
        tool_pieces: As `pieces`, the tokens of tool calls; empty for a family without them. A rehearsal's
            vocabulary may lack them.
        release_texts: Piece of a special token -> its text in the releases' tokenizer_config.json, where that
            is another one; other tools know it by that.
        pieces_in_file: Pieces of the releases' tokenizer.model where `added_tokens` are not among them.
        added_tokens: Texts of the tokens that the releases' tokenizer adds after those pieces, in the order
            of their ids; the rest of the `vocab_size` ids has no text.
    """

    name: str
    title: str
    pieces: Mapping[str, tuple[str, int]]
    turns: Mapping[str, Turn]
    end_markers: Mapping[str, tuple[str, ...]]
    vocab_size: int
    config_type: str
    has_bias: bool
    rms_norm_eps: float
    theta: float
    hf_model_type: str
    hf_bias_key: str
    hf_names: str
    tool_pieces: Mapping[str, tuple[str, int]]
    release_texts: Mapping[str, str]
    pieces_in_file: int = 0
    added_tokens: tuple[str, ...] = ()

    @property
    def stop_roles(self) -> tuple[str, ...]:
        """Roles of the tokens at which generation ends, however the model was trained to end."""
        return tuple(roles[0] for roles in self.end_markers.values())


_COMMON_PIECES = {"unk": ("<unk>", 0), "bos": ("<s>", 1), "eos": ("</s>", 2)}
_NEWLINE = special_token("newline")


def _chatml(role: str, *end: Segment) -> Turn:
    """ChatML's turn: <|im_start|>role, newline, content, <|im_end|>, newline."""
    return Turn((special_token("turn_start"), Segment(f"{role}\n")), (*end, Segment("\n")))


# The two end markers are the last two pieces of the vocabulary, which has no text for them: <eoh> is
# <TOKENS_UNUSED_140> (103167) and <eoa> is <TOKENS_UNUSED_139> (103166), and newlines of the template are the
# byte piece. Source: research/internlm/alpaca_data_preprocess.py of MindFormers and internlm-7b's
# tokenizer.model. Its single question has no system turn; that one, and the newline between two turns, are
# those of InternLM's chat/web_demo.py and XTuner's template `internlm_chat`.
_INTERNLM = Family(
    name=INTERNLM,
    title="InternLM",
    pieces=MappingProxyType({
        **_COMMON_PIECES,
        "newline": ("<0x0A>", 13),
        "end_of_assistant": ("<TOKENS_UNUSED_139>", -2),
        "end_of_user": ("<TOKENS_UNUSED_140>", -1),
    }),
    turns=MappingProxyType({
        SYSTEM: Turn((Segment("<|System|>:"),), (_NEWLINE,)),
        USER: Turn((Segment("<|User|>:"),), (special_token("end_of_user"), _NEWLINE)),
        ASSISTANT: Turn((Segment("<|Bot|>:"),), (_NEWLINE,)),
    }),
    end_markers=MappingProxyType({UPSTREAM_END: ("end_of_assistant", "newline", "eos"), "eos": ("eos",)}),
    vocab_size=103168,
    config_type="InternLMConfig",
    has_bias=True,
    rms_norm_eps=1e-6,
    theta=10000.0,
    hf_model_type="internlm",
    hf_bias_key="bias",
    hf_names=LLAMA_NAMES,
    tool_pieces=MappingProxyType({}),
    release_texts=MappingProxyType({}),
)

# <|im_end|> (92542) ends every turn, <|im_start|> (92543) begins it. Source: added_tokens_decoder and
# chat_template in the tokenizer_config.json of the InternLM2 releases.
_INTERNLM2 = Family(
    name=INTERNLM2,
    title="InternLM2",
    pieces=MappingProxyType({
        **_COMMON_PIECES,
        "end_of_assistant": ("[UNUSED_TOKEN_145]", -2),
        "end_of_user": ("[UNUSED_TOKEN_145]", -2),
        "turn_start": ("[UNUSED_TOKEN_146]", -1),
    }),
    turns=MappingProxyType({
        SYSTEM: _chatml(SYSTEM, special_token("end_of_user")),
        USER: _chatml(USER, special_token("end_of_user")),
        ASSISTANT: _chatml(ASSISTANT),
    }),
    end_markers=MappingProxyType({UPSTREAM_END: ("end_of_assistant",), "eos": ("eos",)}),
    vocab_size=92544,
    config_type="InternLM2Config",
    has_bias=False,
    rms_norm_eps=1e-5,
    theta=1000000.0,
    hf_model_type="internlm2",
    hf_bias_key="bias",
    hf_names=INTERNLM2_NAMES,
    # <|action_start|> 92541, <|action_end|> 92540 and <|plugin|> 92538, of the same source.
    tool_pieces=MappingProxyType({
        "action_start": ("[UNUSED_TOKEN_144]", -3),
        "action_end": ("[UNUSED_TOKEN_143]", -4),
        "plugin": ("[UNUSED_TOKEN_141]", -6),
    }),
    release_texts=MappingProxyType({
        "[UNUSED_TOKEN_141]": "<|plugin|>",
        "[UNUSED_TOKEN_142]": "<|interpreter|>",
        "[UNUSED_TOKEN_143]": "<|action_end|>",
        "[UNUSED_TOKEN_144]": "<|action_start|>",
        "[UNUSED_TOKEN_145]": "<|im_end|>",
        "[UNUSED_TOKEN_146]": "<|im_start|>",
    }),
)

# Its tokenizer.model has no special tokens but <unk>, <s> and </s>; the tokenizer's Python code adds 22.
# <|im_end|> is 128131 (generation_config.json), the others follow from additional_special_tokens, whose order
# runs down from 128132 as InternLM2's does. Source: tokenizer_config.json of internlm3-8b-instruct. Its
# tokenizer.model was not seen here: the number of its pieces is a conclusion, and another number is refused.
_THOUGHTS = ("conclude", "retry", "summarize", "review", "execution", "recollect", "planning", "restate")
_INTERNLM3 = Family(
    name=INTERNLM3,
    title="InternLM3",
    pieces=MappingProxyType({
        **_COMMON_PIECES,
        "end_of_assistant": ("<|im_end|>", -2),
        "end_of_user": ("<|im_end|>", -2),
        "turn_start": ("<|im_start|>", -1),
    }),
    turns=_INTERNLM2.turns,
    end_markers=_INTERNLM2.end_markers,
    vocab_size=128512,
    config_type="InternLM3Config",
    has_bias=False,
    rms_norm_eps=1e-5,
    theta=50000000.0,
    hf_model_type="internlm3",
    hf_bias_key="qkv_bias",
    hf_names=LLAMA_NAMES,
    tool_pieces=MappingProxyType({
        "action_start": ("<|action_start|>", -3),
        "action_end": ("<|action_end|>", -4),
        "plugin": ("<|plugin|>", -6),
    }),
    release_texts=MappingProxyType({}),
    pieces_in_file=128111,
    added_tokens=(*(text for name in _THOUGHTS for text in (f"</{name}>", f"<{name}>")), "<|plugin|>",
                  "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({
    row.name: row for row in (_INTERNLM, _INTERNLM2, _INTERNLM3)})
END_MARKERS = tuple(FAMILIES[INTERNLM].end_markers)  # their names; every family knows the same


def by_config_type(config_type: str | None) -> Family | None:
    """The family of a recipe's `model.model_config.type`; None where it is not one of ours."""
    return next((row for row in FAMILIES.values() if row.config_type == config_type), None)
