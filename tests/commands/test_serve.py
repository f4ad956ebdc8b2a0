"""serve.py before it loads anything: keys, names of models, and addresses."""

import socket

import pytest

from research_internlm import serve
from research_internlm.serving.model_source import adapters_of
from research_internlm.serving.server import listening
from research_internlm.shared.errors import ToolkitError


def test_another_address_needs_a_key(monkeypatch):
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)
    assert serve.api_key("127.0.0.1") is None
    with pytest.raises(ToolkitError, match=r"--host 0\.0\.0\.0 .* INTERNLM_API_KEY"):
        serve.api_key("0.0.0.0")
    monkeypatch.setenv(serve.KEY_VARIABLE, "key-of-test")
    assert serve.api_key("0.0.0.0") == serve.api_key("127.0.0.1") == "key-of-test"


def test_adapters_have_names_of_their_own():
    assert adapters_of(["a=x.ckpt", "b=y=z.ckpt"], "base") == {"a": "x.ckpt", "b": "y=z.ckpt"}
    for wrong in (["x.ckpt"], ["=x.ckpt"], ["a="]):
        with pytest.raises(ToolkitError, match="not of the form NAME=CHECKPOINT"):
            adapters_of(wrong, "base")
    for wrong in (["a=x", "a=y"], ["base=x"]):
        with pytest.raises(ToolkitError, match="two models have the name"):
            adapters_of(wrong, "base")


def test_a_port_in_use_is_told():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ToolkitError, match=f"cannot listen on 127.0.0.1 port {port}: .* --port"):
            listening("127.0.0.1", port)
