"""The page's files as the server gives them; test_page_in_browser.py opens them."""

import re
from configparser import ConfigParser

import httpx
import pytest

from research_internlm.data.tokens import load_tokenizer
from research_internlm.inference.text_codec import TextCodec
from research_internlm.serving.app import Settings
from research_internlm.serving.page import STATIC
from tests.helpers.commands import ROOT
from tests.helpers.scripted_model import serving, started

FILES = sorted(STATIC.iterdir())


@pytest.fixture(scope="module")
def client(demo_data):
    path = demo_data / "tokenizer.model"
    codec = TextCodec(path, load_tokenizer(path).vocab_size())
    settings = Settings(api_key="long-enough", root_path="/user/lin/proxy/8000")
    with serving(started(codec, lambda ids: [400]), settings) as url, httpx.Client(base_url=url) as client:
        yield client


def test_the_page_needs_no_key_and_may_load_this_server_only(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and set(policy.values()) == {"'none'", "'self'"}
    for name in ("script-src", "style-src", "connect-src"):
        assert policy[name] == "'self'"
    assert page.headers["x-content-type-options"] == "nosniff"
    for path in FILES:
        found = client.get(f"/{path.name}")
        assert found.content == path.read_bytes()
        assert found.headers["cache-control"] == "no-cache"
        assert "content-security-policy" in found.headers
        if path.suffix == ".js":
            assert "javascript" in found.headers["content-type"]


@pytest.mark.parametrize("path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/none.js"])
def test_nothing_else_is_given(client, path):
    assert client.get(path).status_code == 404


def test_behind_a_proxy_that_leaves_its_path_in(client):
    root = "/user/lin/proxy/8000"
    moved = client.get(root)
    assert (moved.status_code, moved.headers["location"]) == (307, f"{root}/")
    assert client.get(f"{root}/").text == client.get("/").text
    assert client.get(f"{root}/main.js").status_code == 200
    assert client.get(f"{root}/v1/models").status_code == 401


def test_all_addresses_of_the_page_are_relative_and_every_file_is_used():
    texts = {path.name: path.read_text(encoding="utf-8") for path in FILES}
    named = set()
    for text in texts.values():
        named |= set(re.findall(r'(?:href|src)="([^"]+)"|from "\./([^"]+)"', text))
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert {a or b for a, b in named} == {path.name for path in FILES} - {"index.html"}


def test_both_languages_say_the_same():
    text = (STATIC / "texts.js").read_text(encoding="utf-8")
    english, chinese = text.split("  zh: {")
    chinese = chinese.split("\n  },")[0]
    entry = re.compile(r'^    (\w+): "(.*)",$', re.MULTILINE)

    def places(part):
        return {name: sorted(re.findall(r"\{\w+\}", words)) for name, words in entry.findall(part)}

    assert len(places(english)) > 40 and places(english) == places(chinese)
    used = set(re.findall(r'data-(?:text|placeholder|label)="(\w+)"', (STATIC / "index.html").read_text()))
    for path in STATIC.glob("*.js"):
        used |= set(re.findall(r'\b(?:text|button)\("(\w+)"', path.read_text(encoding="utf-8")))
    assert used <= set(places(english))


def test_the_files_are_installed_with_the_package():
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    assert settings["options.package_data"]["research_internlm.serving"] == "static/*"
