"""The Chinese documents say what the English ones say: headings, commands, figures, file tree, output."""

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.documents import Document

README = {
    "research_internlm: fine-tune InternLM on Ascend NPUs, rehearse on a laptop":
        "research_internlm：在昇腾 NPU 上微调 InternLM，先在笔记本上演练",
    "Two commands": "两条命令",
    "What you get": "你会得到什么",
    "From csv to MindRecord": "从 csv 到 MindRecord",
    "Conversations and an assistant of your own": "对话数据与自己的小助手",
    "Answers during training, and the checkpoint to take": "训练中的回答，以及该取哪个 checkpoint",
    "Weights in and out": "权重的导入与导出",
    "Checking the machine": "检查机器",
    "Training on 4 NPUs of 64 GB": "在 4 张 64 GB NPU 上训练",
    "Evaluation": "评测",
    "Who wrote this? Human or AI": "这是谁写的：人还是 AI",
    "Fewer bits, and the loss of texts": "更少的比特，以及文本的 loss",
    "Chat and server": "对话与服务",
    "Around the run": "训练前后",
    "On a model hub": "发布到模型库",
    "Where things are": "目录",
}
NOTEBOOK = {
    "From an empty Ascend notebook to the zip": "从空的昇腾 notebook 到提交用的 zip",
    "Before you pay": "付费之前",
    "The machine": "机器",
    "Data": "数据",
    "Weights": "权重",
    "Probe and plan": "测步时与计划",
    "Training": "训练",
    "Evaluation": "评测",
    "Report and hand-in": "报告与提交",
    "Ten errors and what to do": "十个常见错误与处理办法",
}
ARM64 = {"On aarch64": "在 aarch64 上", "An emulated root": "模拟的根目录", "What ran": "运行过什么"}
PAIRS = {"README": README, "docs/ascend_notebook": NOTEBOOK, "docs/arm64": ARM64}


def pair(stem):
    return Document.read(ROOT / f"{stem}.md"), Document.read(ROOT / f"{stem}_zh.md")


def test_every_document_in_two_languages_is_compared():
    translated = {path.relative_to(ROOT).as_posix().removesuffix("_zh.md")
                  for folder in (ROOT, ROOT / "docs") for path in folder.glob("*_zh.md")}
    assert translated == set(PAIRS)


@pytest.mark.parametrize("stem", PAIRS)
def test_headings_are_pairs_in_the_same_order(stem):
    english, chinese = pair(stem)
    assert [title for _, title in english.headings()] == list(PAIRS[stem])
    assert [title for _, title in chinese.headings()] == list(PAIRS[stem].values())
    assert [level for level, _ in english.headings()] == [level for level, _ in chinese.headings()]


@pytest.mark.parametrize("stem", PAIRS)
def test_commands_figures_and_file_tree_are_the_same(stem):
    english, chinese = pair(stem)
    assert chinese.commands() == english.commands()
    assert sorted(chinese.inline_commands()) == sorted(english.inline_commands())
    assert chinese.tree_entries() == english.tree_entries()
    assert chinese.printed == english.printed
    assert len(chinese.figures()) == len(english.figures())
    titles = ["(before the first heading)", *(title for _, title in english.headings())]
    different = {title: {"only in English": ours - theirs, "only in Chinese": theirs - ours}
                 for title, ours, theirs in zip(titles, english.figures(), chinese.figures(), strict=True)
                 if ours != theirs}
    assert different == {}


def test_a_figure_is_a_number_with_its_unit_in_either_language():
    def read(text):
        return Document(ROOT, text, []).figures()[0]

    assert read("1.1-million-parameter, 347 s on 2 CPU cores, 12,496 rows") == read(
        "110 万参数，2 个 CPU 核上 347 秒，12,496 行")
    assert read("3.4 GB in 3 minutes") != read("3.4 GB，3 秒")
    assert read("`--rank 8` and [4 cards](x9.md)") == {("4", "")}
