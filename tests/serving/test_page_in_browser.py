"""The page in a headless Chromium, over scripted models: what a person does with it."""

import contextlib
import json
import threading
import time

import pytest

from research_internlm.data.item_files import read_formed
from research_internlm.serving.app import Settings
from tests.helpers.browser import chromium, requested
from tests.helpers.scripted_model import serving, started

pytestmark = pytest.mark.slow

BASE = "我是一个语言模型。"
TUNED = '我是小宝。<img src="none.png" onerror="document.title=1"><b>x</b>'
QUESTION = "你是谁？"
ALL = "[...document.querySelectorAll(arguments[0])]"
NOTEBOOK = "/user/lin/proxy/8000"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("chromium")


@pytest.fixture(scope="module")
def browser(downloads):
    with chromium(downloads) as driver:
        yield driver


def writing(codec, text):
    return lambda ids: codec.processor.encode(text)


class Page:
    """The page in the browser; elements by CSS selector."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url
        self.open()

    def open(self, path="/"):
        self.driver.get(self.url + path)
        self.until(lambda: self.run("return document.querySelector('[name=first]').value")
                   or self.visible("#key") or self.visible("#problem"))

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector):
        return self.run(f"return {ALL}.map(one => one.innerText)", selector)

    def visible(self, selector):
        return self.run(f"return {ALL}.some(one => one.checkVisibility())", selector)

    def click(self, selector):
        [one] = [one for one in self.all(selector) if one.is_displayed()]
        one.click()

    def type(self, selector, text):
        [one] = self.all(selector)
        one.clear()
        one.send_keys(text)

    def ask(self, question):
        self.type("#question", question + "\n")

    def until(self, holds, seconds=20):
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, self.texts("body")
            time.sleep(0.02)

    def until_answered(self):
        self.until(lambda: self.visible("#send") and self.visible(".retry"))


@pytest.fixture
def gate():
    """Lets the models write so many tokens as it is released."""
    gate = threading.Semaphore(0)
    yield gate
    gate.release(10_000)


@pytest.fixture
def opened(browser, codec):
    """Opens the page of a server with these answers; it has asked nobody else, and nothing was forbidden."""
    with contextlib.ExitStack() as stack:
        pages = []

        def opened(answers, path="/", expected_errors=(), api_key=None, root_path="", **rows):
            answers = {name: answer if callable(answer) else writing(codec, answer)
                       for name, answer in answers.items()}
            scheduler = started(codec, answers.pop("base"), others=answers, **rows)
            url = stack.enter_context(serving(scheduler, Settings(api_key, root_path=root_path)))
            requested(browser), browser.get_log("browser")
            pages.append((url + path, expected_errors))
            return Page(browser, url + path.rstrip("/"))

        yield opened
        asked, log = requested(browser), browser.get_log("browser")
        browser.get("about:blank")  # no page waits for a server that has gone
        urls, expected = zip(*pages, strict=True)
        assert [url for url in asked if not url.startswith((*urls, "blob:"))] == []
        assert [entry["message"] for entry in log
                if not any(word in entry["message"] for words in expected for word in words)] == []


def test_an_answer_grows_is_stopped_and_asked_for_again(opened, gate):
    page = opened({"base": BASE * 5}, gate=gate)
    assert page.texts("#one-model") == ["To compare, serve a second model: --adapter NAME=CHECKPOINT."]
    page.ask("   ")
    assert page.all(".turn") == []
    page.ask(QUESTION)
    page.until(lambda: page.all(".answer[aria-busy=true]"))
    seen = []
    while len(seen) < 4:
        gate.release()
        [text] = page.texts(".answer .text")
        if text and text not in seen:
            seen.append(text)
    assert all((BASE * 5).startswith(text) for text in seen)
    assert page.all("#log .retry") == [] and not page.visible("#send")
    page.ask("Not now.")  # one question at a time
    page.run("document.getElementById('question').value = ''")
    page.click("#stop")
    page.until_answered()
    assert page.texts(".note") == ["Stopped."] and page.texts(".question")[0].endswith(QUESTION)
    gate.release(10_000)
    page.click(".retry")
    page.until(lambda: page.texts(".answer .text") == [BASE * 5])
    page.until_answered()
    [stats] = page.texts(".stats")
    assert "tokens in, " in stats and "tokens/s" in stats
    assert page.run("return document.getElementById('status').textContent").startswith(f"base: {BASE}")
    assert page.run("return document.activeElement.id") == "send"  # where Stop was


def test_two_models_side_by_side_reload_export_and_clear(opened, codec, downloads):
    prompts = []

    def base(ids):
        prompts.append(codec.decode(ids))
        return codec.processor.encode(BASE)

    page = opened({"base": base, "tuned": TUNED})
    page.type("[name=system]", "说中文。")
    page.ask(QUESTION)
    page.until_answered()
    page.ask("And in English?")
    page.until_answered()
    left, right = page.all(".turn:first-child .answer")
    assert left.rect["y"] == right.rect["y"] and left.rect["x"] < right.rect["x"]
    # What a model writes is text.
    assert page.texts(".answer .text") == [BASE, TUNED] * 2
    assert page.all("#log img") == page.all("#log b") == [] and page.driver.title == "InternLM"
    for part in ("说中文。", QUESTION, BASE, "And in English?"):
        assert part in prompts[-1]
    assert "小宝" not in prompts[-1]  # each model goes on from its own answers

    page.click("#export")
    page.until(lambda: list(downloads.glob("conversation-*.json")))
    [path] = downloads.glob("conversation-*.json")
    assert [item["model"] for item in json.loads(path.read_text(encoding="utf-8"))] == ["base", "tuned"]
    assert list(read_formed(path)) == [("openai", {"messages": [  # as the converter reads it
        {"role": "system", "content": "说中文。"},
        {"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer},
        {"role": "user", "content": "And in English?"}, {"role": "assistant", "content": answer}]})
        for answer in (BASE, TUNED)]

    page.click("#language")
    page.open()
    assert page.texts(".answer .text") == [BASE, TUNED] * 2
    assert page.texts("#send") == ["发送"] and page.run("return document.documentElement.lang") == "zh-CN"
    assert page.run("return document.querySelector('[name=system]').value") == "说中文。"
    page.click("#clear")
    page.driver.switch_to.alert.accept()
    page.until(lambda: not page.all(".turn"))
    assert page.run("return localStorage.length") == 0
    page.open()
    assert page.texts("#send") == ["Send"] and page.all(".turn") == []


def test_one_of_two_answers_is_stopped_and_a_reload_ends_the_rest(opened, gate):
    page = opened({"base": BASE, "tuned": TUNED}, gate=gate)
    page.ask(QUESTION)
    gate.release(12)
    page.until(lambda: all(page.texts(".answer .text")))
    page.click(".answer:nth-child(2) .stop")
    page.until(lambda: page.texts(".note") == ["", "Stopped."])
    assert page.all(".answer:first-child[aria-busy=true]") and page.visible("#stop")
    kept = page.texts(".answer .text")
    page.open()
    assert page.texts(".note") == ["Stopped.", "Stopped."]
    assert page.texts(".answer .text") == kept and all(kept)


def test_a_key_is_asked_for_and_kept_for_the_tab_only(opened):
    page = opened({"base": BASE}, api_key="long-enough", expected_errors=("401",))
    assert page.visible("#key") and not page.visible("#wrong-key")
    page.type("[name=key]", "wrong\n")
    page.until(lambda: page.visible("#wrong-key"))
    page.type("[name=key]", "long-enough\n")
    page.until(lambda: not page.visible("#key"))
    page.ask(QUESTION)
    page.until_answered()
    assert page.texts(".answer .text") == [BASE]
    page.open()
    assert not page.visible("#key")
    assert "long-enough" not in page.run("return JSON.stringify(localStorage)")


def test_a_full_context_leaves_the_oldest_exchanges_out(opened):
    page = opened({"base": "word " * 10}, seq_length=96, expected_errors=("400",))
    page.type("[name=max_tokens]", "40")
    for _ in range(3):
        page.ask("Go on.")
        page.until_answered()
    assert "the model did not see" in page.texts(".note")[-1]
    assert not any("Ended because" in note for note in page.texts(".note"))
    page.type("[name=max_tokens]", "5")
    page.ask("好" * 25)  # more tokens than the English before it lets expect
    page.until_answered()
    assert "did not see" in page.texts(".note")[-1] and page.texts(".answer .text")[-1]
    page.ask("long " * 100)
    page.until_answered()
    assert page.texts(".note")[-1].endswith("Shorten it or the system prompt.")
    assert page.all(".answer.failed")


def test_behind_a_notebooks_proxy_in_the_browsers_language(opened):
    driver = opened({"base": BASE}).driver
    agent = driver.execute_script("return navigator.userAgent")

    def use_language(name):
        driver.execute_cdp_cmd("Network.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": name})

    use_language("zh-CN")
    try:
        page = opened({"base": BASE}, root_path=NOTEBOOK, path=f"{NOTEBOOK}/")
        assert page.texts("#send") == ["发送"]
        page.ask(QUESTION)
        page.until_answered()
        assert page.texts(".answer .text") == [BASE]
        assert all(f"{NOTEBOOK}/" in url for url in requested(driver))
        page.open()
    finally:
        use_language("en-US")


def test_a_server_that_is_gone_is_said(browser, codec, opened):
    page = opened({"base": BASE}, expected_errors=("v1/",))
    page.run("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    page.ask(QUESTION)
    page.until_answered()
    assert "ssh tunnel" in page.texts(".note")[0]


@pytest.mark.parametrize("size", [(360, 740), (1280, 800)])
def test_it_fits_the_window_and_every_control_has_a_name(opened, size):
    page = opened({"base": "word " * 30 + "w" * 200, "tuned": TUNED})
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500})

    def inside():
        return page.run("const page = document.documentElement; return [page.scrollWidth, page.scrollHeight]")

    try:
        page.open()
        for _ in range(4):
            page.ask(QUESTION)
            page.until_answered()
        page.run("document.getElementById('log').scrollTop = 0")
        assert inside() == list(size)
        if size[0] < 500:
            assert not page.visible("#settings")
            page.click("#toggle-settings")
        controls = [one for one in page.all("button, input, select, textarea") if one.is_displayed()]
        names = {one.accessible_name for one in controls}
        assert "" not in names and len(names) > 15
        assert inside() == list(size)
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
