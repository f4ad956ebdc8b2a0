"""The chat template of an export against the toolkit's own rendering of the same messages."""

import jinja2
import pytest

from research_internlm.checkpoints.hf_tokenizer import chat_template
from research_internlm.data.chat_template import render_messages
from research_internlm.data.tokens import load_tokenizer, special_tokens
from tests.helpers.commands import run_script

CONVERSATIONS = [
    "user", "system user", "user assistant user", "system user assistant user assistant user",
    "user assistant", "system user assistant user assistant", "user user", "assistant user", "",
]


def conversation(roles):
    return [{"role": role, "content": f"{role} {{{place}}}\n'text' {place}\n"}
            for place, role in enumerate(roles.split())]


@pytest.fixture(scope="module", params=["internlm", "internlm2"])
def model_file(request, demo_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    run_script("scripts/demo/tiny_tokenizer.py", "--corpus", demo_data / "base_corpus.json", "--output", path,
               "--family", request.param)
    return path


@pytest.fixture(scope="module")
def template(model_file):
    processor = load_tokenizer(model_file)
    text = chat_template(processor, special_tokens(processor), processor.id_to_piece)

    def fail(text):
        raise ValueError(text)

    # As transformers builds it: utils/chat_template_utils.py.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text, {"raise_exception": fail})


@pytest.mark.parametrize("roles", CONVERSATIONS)
def test_the_template_gives_the_text_of_the_rendered_segments(model_file, template, roles):
    processor = load_tokenizer(model_file)
    special = special_tokens(processor)
    segments = render_messages(conversation(roles), special.family)
    prefix = " " if processor.encode("a", out_type=str)[0].startswith("\u2581") else ""
    expected, in_text = "", False
    for segment in segments:
        # Of two texts the second one has the dummy prefix, where the vocabulary has one.
        expected += (processor.id_to_piece(special[segment.content]) if segment.is_token
                     else prefix * in_text + segment.content)
        in_text = not segment.is_token
    assert template.render(messages=conversation(roles)) == expected


def test_an_unknown_role_is_refused(template):
    with pytest.raises(ValueError, match="other than system, user, assistant"):
        template.render(messages=[{"role": "tool", "content": "x"}])
