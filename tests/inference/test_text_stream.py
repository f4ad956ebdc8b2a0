"""A streamed answer is the decoded answer: whole characters, no markers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from research_internlm.inference.text_stream import TextStream


def streamed(codec, ids):
    stream = TextStream(codec)
    return [*map(stream.push, ids), stream.finish()]


def byte(value):
    return 3 + value  # InternLM's byte pieces begin at id 3


def test_a_character_of_several_tokens_comes_whole(codec):
    face = [byte(value) for value in "\U0001f600".encode()]
    assert streamed(codec, [byte(0x41), *face, byte(0x42)]) == ["A", "", "", "", "\U0001f600", "B", ""]


def test_bytes_that_nothing_completes_are_shown_at_the_end(codec):
    assert streamed(codec, [byte(0xE4), byte(0xBD)]) == ["", "", "\ufffd\ufffd"]
    assert streamed(codec, [byte(0xE4), byte(0x41)]) == ["", "\ufffdA", ""]


def test_markers_are_not_shown_but_newlines_are(codec):
    special = codec.special
    ids = [special["bos"], byte(0x41), *map(special.__getitem__, (
        "newline", "end_of_user", "end_of_assistant", "eos"))]
    assert "".join(streamed(codec, ids)) == "A\n"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_pieces_together_are_the_decoded_answer(codec, data):
    ordinary = st.integers(3, codec.special.vocab_size - 3)
    bytes_ = st.integers(0x80, 0xFF).map(byte)
    spaces = st.just(codec.processor.piece_to_id("\u2581"))
    ids = data.draw(st.lists(ordinary | bytes_ | spaces, max_size=24))
    assert "".join(streamed(codec, ids)) == codec.decode(ids)
