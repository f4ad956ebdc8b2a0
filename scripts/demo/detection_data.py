"""The detection demo's csv: texts put together from sentences of our own, and three kinds of generators.

    python scripts/demo/detection_data.py --output texts.csv

"Human" texts are plain sentences of ours in a random order with a detail of their own. The kinds differ in how
they write and not only on the surface: templates (connectives around keywords), chains (each word follows the
one before as in the human texts, so that words fit and sentences do not) and lists (numbered points). Each
kind is two generators. English and Chinese, four prompts each.
"""

# ruff: noqa: E501 (a Chinese character counts as two columns)

from __future__ import annotations

import argparse
import csv
import itertools
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from research_internlm.shared.errors import run_main
from research_internlm.shared.files import publish, require_absent, staging

HUMAN_TEXTS, AI_TEXTS = 130, 40  # of each prompt; of each prompt and generator

# Language -> prompt -> keywords and sentences.
PROMPTS = {
    "en": {
        "bus": ("the bus,the driver,the stop,the ticket", """my bus was late again so I ran the last bit
            the driver knows everyone on our street|I lost a ticket once and nobody minded
            the stop has no roof and it rains a lot here|old people get the seats in front
            I read half a book in a week just sitting there|on Fridays we all sing at the back
            my dad says walking is faster and he may be right|the windows never open in summer"""),
        "garden": ("the garden,the soil,the rain,the tools", """we planted beans and the snails ate them
            my aunt waters everything before breakfast|the soil here is full of stones
            I fell into the pond when I was six|tomatoes need more sun than we have
            the cat sleeps on the warm stones all day|rain is fine but hail broke our glass
            I never remember where the tools are|we gave away forty pumpkins last year"""),
        "phone": ("the phone,the screen,the message,the battery", """I dropped my phone in the soup last night
            my sister answers before I finish typing|the battery dies when it gets cold
            we put all the phones in a box at dinner|I still know our old number by heart
            the screen has a crack shaped like a river|grandma writes messages with no spaces
            it rings in class and everyone looks at me|I turned it off for a week and felt fine"""),
        "sport": ("the team,the coach,the match,the field", """we lost nine to one and laughed all the way home
            the coach shouts but he brings oranges|my left knee hurts since the spring
            the field is mud from October to March|I only play because my friends do
            our keeper is small but very quick|nobody wanted to wash the shirts
            the match was called off because of a dog|I scored once and it was by mistake"""),
    },
    "zh": {
        "school_zh": ("学校,老师,课堂,作业", """早上我又差点迟到了|老师昨天讲了个笑话，谁也没听懂|食堂的面条总是太咸
            我同桌上课爱画小人|体育课下雨就改成自习|作业写到十点，妈妈都睡了|教室后面的钟慢了五分钟
            我最怕被叫上去背书|放学后我们在门口买烤红薯"""),
        "food_zh": ("饮食,厨房,味道,健康", """奶奶包的饺子个个都很大|我第一次炒菜把锅烧糊了|楼下那家面馆换了老板
            爸爸吃辣，我和妈妈不吃|冬天喝一碗热汤真舒服|冰箱里的西瓜被弟弟吃光了|这家的豆浆比那家的甜一点
            我不爱吃香菜，谁劝都没用|过年的时候厨房里挤满了人"""),
        "travel_zh": ("旅行,城市,风景,文化", """火车晚点了三个小时|我们在山顶什么也没看见，全是雾|那天我把帽子忘在了旅馆
            海边的风把伞都吹跑了|问路的时候，大爷带我们走到了门口|相机没电了，只好用眼睛看|晚上的小吃街人挤人
            下次我想一个人再去一趟|回家以后我睡了一整天"""),
        "pet_zh": ("宠物,陪伴,照顾,责任", """我家的猫半夜在沙发上跑来跑去|狗一听见钥匙响就冲到门口|金鱼养了两天就没了
            邻居的鹦鹉学会了骂人|给猫洗澡，我手上全是伤|它生病那天我一直没睡|兔子把我的书咬了个洞
            妈妈嘴上嫌弃，天天偷偷喂它|搬家的时候它躲在箱子里"""),
    },
}
OPENINGS = {"en": ("well", "last year", "honestly", "to be fair", "when I was small"),
            "zh": ("说起来", "去年", "老实说", "小时候", "有一回")}
WAYS = {  # generator -> language -> parts
    "template_a": {"en": ("it is important to note that {} plays a crucial role", "moreover {} has a significant "
                          "impact on society", "in conclusion {} is essential for {}", "furthermore {} and {} are "
                          "closely connected"),
                   "zh": ("值得注意的是，{}起着至关重要的作用", "此外，{}对社会产生了深远影响", "综上所述，{}对{}不可或缺",
                          "与此同时，{}与{}密切相关")},
    "template_b": {"en": ("many people believe that {} offers numerous benefits", "overall {} can enhance {} in "
                          "various ways", "it is clear that {} remains a vital aspect of life", "as a result {} "
                          "continues to shape {}"),
                   "zh": ("许多人认为，{}带来了诸多好处", "总的来说，{}能够从多方面促进{}", "显而易见，{}仍是生活的重要组成部分",
                          "因此，{}持续影响着{}")},
    "list_a": {"en": ("{n} . {} : this helps with {}", "{n} . {} : consider it carefully"),
               "zh": ("{n}、{}：有助于{}", "{n}、{}：需要认真考虑")},
    "list_b": {"en": ("point {n} is {} and it supports {}", "point {n} is {} above all"),
               "zh": ("第{n}点是{}，它支持{}", "第{n}点首先是{}")},
}


def sentences(language: str, prompt: str) -> list[str]:
    """The sentences of a prompt."""
    text = PROMPTS[language][prompt][1]
    return [" ".join(part.split()) for line in text.split("\n") for part in line.split("|") if part.strip()]


def joined(parts: list[str], language: str) -> str:
    """Parts as a text."""
    return "。".join(parts) + "。" if language == "zh" else ". ".join(part.capitalize() for part in parts) + "."


def human(language: str, prompt: str, draw: random.Random) -> str:
    """Sentences in a random order, with a detail of its own."""
    own = draw.sample(sentences(language, prompt), 4)
    opening, number = draw.choice(OPENINGS[language]), draw.randrange(2, 99)
    detail = f"那时候是{number}号" if language == "zh" else f"that was {number} days ago"
    own.insert(draw.randrange(4), detail)
    return joined([f"{opening}，{own[0]}" if language == "zh" else f"{opening} {own[0]}", *own[1:]], language)


def templated(name: str, language: str, prompt: str, draw: random.Random) -> str:
    """Fixed ways of saying it around the prompt's keywords."""
    words = PROMPTS[language][prompt][0].split(",")
    parts = []
    for number in range(1, draw.randrange(4, 7)):
        one, other = draw.sample(words, 2)
        parts.append(draw.choice(WAYS[name][language]).format(one, other, n=number))
    return joined(parts, language)


def chained(step: int, language: str, prompt: str, draw: random.Random) -> str:
    """Each unit follows the `step` units before it as in the human sentences of all prompts of the language."""
    follow = defaultdict(list)
    units = [list(text) if language == "zh" else text.split() for own in PROMPTS[language]
             for text in sentences(language, own)]
    for text in units:
        for place in range(len(text)):
            follow[tuple(text[max(0, place - step):place])].append(text[place])
    made, own = [], [text for text in units if "".join(text) in {
        (one if language == "zh" else one.replace(" ", "")) for one in sentences(language, prompt)}]
    for _ in range(5):
        words = [draw.choice(own)[0]]
        while len(words) < 12 and (choices := follow.get(tuple(words[-step:]))):
            words.append(draw.choice(choices))
        made.append(("" if language == "zh" else " ").join(words))
    return joined(made, language)


def generators() -> dict[str, Callable[[str, str, random.Random], str]]:
    """Every generator by name."""
    found = {name: (lambda *rest, name=name: templated(name, *rest)) for name in WAYS}
    return {**found, "chain_a": lambda *rest: chained(1, *rest), "chain_b": lambda *rest: chained(2, *rest)}


def rows(seed: int = 42) -> list[list[str | int]]:
    """text, label, prompt_name, source."""
    draw = random.Random(seed)
    made: list[list[str | int]] = []
    for language, prompts in PROMPTS.items():
        for prompt in prompts:
            made += [[human(language, prompt, draw), 0, prompt, "people"] for _ in range(HUMAN_TEXTS)]
            for (name, write), _ in itertools.product(generators().items(), range(AI_TEXTS)):
                made.append([write(language, prompt, draw), 1, prompt, name])
    draw.shuffle(made)
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="F.csv")
    arguments = parser.parse_args(argv)
    output = require_absent(arguments.output, overwrite=False)
    with staging(output.parent) as folder:
        with open(folder / output.name, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text", "label", "prompt_name", "source"], *rows()])
        publish(folder / output.name, output)
    return 0


if __name__ == "__main__":
    run_main(main)
