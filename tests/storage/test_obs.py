"""The endpoint of an object store: an address alone, of the region, encrypted."""

import pytest

from research_internlm.shared.errors import ToolkitError
from research_internlm.storage import obs


@pytest.mark.parametrize("server, message", [
    ("https://competition.obs.cn-north-4.example.com",
     r"begins with the bucket's name: give https://obs\.cn-north-4\.example\.com"),
    ("competition.obs.invalid", r"begins with the bucket's name: give https://obs\.invalid"),
    ("https://obs.example.com/competition/w", r"has more than a host: give https://obs\.example\.com, and"),
    ("https://obs.example.com?x=1", "has more than a host"),
    ("ftp://obs.example.com", "is not an address such as"), ("https://", "is not an address such as"),
    ("https://obs.example.com:99999", "is not an address such as"),
    ("https://[::1", "is not an address such as"),
])
def test_an_endpoint_that_is_none_or_not_alone(server, message):
    with pytest.raises(ToolkitError, match=message):
        obs.parse_endpoint(server, "competition")


def test_credentials_in_an_endpoint_are_refused_and_not_repeated():
    with pytest.raises(ToolkitError, match="holds a user name or password") as error:
        obs.parse_endpoint("https://AKIAXXX:secret@obs.example.com", "competition")
    assert "secret" not in str(error.value) and "AKIAXXX" not in str(error.value)


@pytest.mark.parametrize("server, warned", [
    ("http://obs.example.com", True), ("http://192.168.1.9:9000", True), ("https://obs.example.com", False),
    ("http://127.0.0.1:9000", False), ("http://[::1]:9000", False), ("http://localhost:9000", False),
])
def test_what_travels_in_clear_is_said(server, warned, capsys):
    assert obs.parse_endpoint(server, "competition").geturl() == server
    assert ("is not encrypted: file contents, names" in capsys.readouterr().err) == warned


def test_a_bucket_may_be_called_as_the_service():
    assert obs.parse_endpoint("obs.cn-north-4.example.com", "obs").netloc == "obs.cn-north-4.example.com"
