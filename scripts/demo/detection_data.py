"""The detection demo's csv: texts put together from sentences of our own, and five generators.

    python scripts/demo/detection_data.py --output texts.csv

"Human" texts are plain sentences of ours in a random order. The generators use the same sentences, and each goes
wrong in a way of its own: `template` and `frame` have words that people here do not use, `list` numbers its
points, `echo` repeats itself, `chain` has pairs of words that fit in sentences that do not. What tells one of
them says little about another. English and Chinese, four prompts each.
"""

# ruff: noqa: E501 (a Chinese character counts as two columns)

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import random
from collections import defaultdict
from pathlib import Path

from research_internlm.shared.errors import run_main
from research_internlm.shared.result_set import result_set

HUMAN_TEXTS, AI_TEXTS = 130, 40  # of each prompt; of each prompt and generator
GENERATED_ASIDES = 0.35  # share of the generated texts that have one; every human text has one or two

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
# What people say on any prompt; generators less often.
ASIDES = {
    "en": ("I still think about it", "nobody told me why", "that is how it goes here", "my brother says the opposite",
           "I would do it again", "it was not my idea", "we laughed about it later", "I should write it down one day"),
    "zh": ("我到现在还记得", "谁也没告诉我为什么", "我们这儿就是这样", "我哥说的正好相反", "再来一次我还这么干",
           "这可不是我的主意", "后来我们笑了好久", "哪天我得把它写下来"),
}
TEMPLATES = {  # {} is a keyword of the prompt
    "en": ("it is important to note that {} plays a crucial role", "moreover {} has a significant impact on society",
           "in conclusion {} is essential for {}", "many people believe that {} offers numerous benefits",
           "overall {} can enhance {} in various ways", "as a result {} continues to shape {}"),
    "zh": ("值得注意的是，{}起着至关重要的作用", "此外，{}对社会产生了深远影响", "综上所述，{}对{}不可或缺",
           "许多人认为，{}带来了诸多好处", "总的来说，{}能够从多方面促进{}", "因此，{}持续影响着{}"),
}
FRAMES = {  # {} is a human sentence
    "en": ("one could say that {}", "{} which shows how much it matters", "it is worth adding that {}",
           "{} and this deserves attention", "as is well known {}"),
    "zh": ("可以说，{}", "{}，由此可见其意义", "值得补充的是，{}", "{}，这一点值得重视", "众所周知，{}"),
}
POINTS = {"en": "point {} : {}", "zh": "第{}点：{}"}


def sentences(language: str, prompt: str) -> list[str]:
    """The sentences of a prompt."""
    text = PROMPTS[language][prompt][1]
    return [" ".join(part.split()) for line in text.split("\n") for part in line.split("|") if part.strip()]


def joined(parts: list[str], language: str) -> str:
    """Parts as a text."""
    return "。".join(parts) + "。" if language == "zh" else ". ".join(part.capitalize() for part in parts) + "."


def told(language: str, prompt: str, draw: random.Random, count: int, asides: int | None = None) -> list[str]:
    """Human sentences of a prompt, in a random order.

    Args:
        language: A key of PROMPTS.
        prompt: A key of its prompts.
        draw: Draws.
        count: Sentences of the prompt.
        asides: Asides among them; None for one in every third text, as generators have them.
    """
    asides = int(draw.random() < GENERATED_ASIDES) if asides is None else asides
    own = draw.sample(sentences(language, prompt), count) + draw.sample(ASIDES[language], asides)
    draw.shuffle(own)
    return own


def human(language: str, prompt: str, draw: random.Random) -> str:
    """Each sentence once, in a random order."""
    return joined(told(language, prompt, draw, 3, draw.randrange(1, 3)), language)


def templated(language: str, prompt: str, draw: random.Random) -> str:
    """Fixed ways of saying it around the prompt's keywords, among human sentences."""
    words = PROMPTS[language][prompt][0].split(",")
    parts = [way.format(*draw.sample(words, 2)) for way in draw.sample(TEMPLATES[language], draw.randrange(2, 4))]
    parts += told(language, prompt, draw, 1)
    draw.shuffle(parts)
    return joined(parts, language)


def framed(language: str, prompt: str, draw: random.Random) -> str:
    """A human text, most of whose sentences were put into frames."""
    return joined([draw.choice(FRAMES[language]).format(part) if draw.random() < 0.7 else part
                   for part in told(language, prompt, draw, 3)], language)


def listed(language: str, prompt: str, draw: random.Random) -> str:
    """A human text as numbered points."""
    return joined([POINTS[language].format(number, part)
                   for number, part in enumerate(told(language, prompt, draw, 3), 1)], language)


def echoed(language: str, prompt: str, draw: random.Random) -> str:
    """Repeats itself, as small models do: human sentences, and some of them again."""
    own = told(language, prompt, draw, 2)
    again = draw.choices(own, k=draw.randrange(2, 4))
    return joined([*own, *again], language)


@functools.cache
def followers(language: str) -> dict[str | None, list[str | None]]:
    """Unit (word, Chinese character; None before the first) -> what follows it in the human sentences."""
    found = defaultdict(list)
    for text in itertools.chain(ASIDES[language], *(sentences(language, own) for own in PROMPTS[language])):
        for one, other in itertools.pairwise([None, *_units(text, language), None]):
            found[one].append(other)
    return found


def _units(text: str, language: str) -> list[str]:
    return list(text) if language == "zh" else text.split()


def chained(language: str, prompt: str, draw: random.Random) -> str:
    """Each unit follows the one before it as in human sentences: pairs fit, sentences do not."""
    made = []
    for _ in range(draw.randrange(3, 5)):
        words = [_units(draw.choice(told(language, prompt, draw, 2)), language)[0]]
        while len(words) < 14 and (unit := draw.choice(followers(language)[words[-1]])):
            words.append(unit)
        made.append(("" if language == "zh" else " ").join(words))
    return joined(made, language)


GENERATORS = {"template": templated, "frame": framed, "list": listed, "echo": echoed, "chain": chained}


def rows(seed: int = 42) -> list[list[str | int]]:
    """text, label, prompt_name, source."""
    draw = random.Random(seed)
    made: list[list[str | int]] = []
    for language, prompts in PROMPTS.items():
        for prompt in prompts:
            made += [[human(language, prompt, draw), 0, prompt, "people"] for _ in range(HUMAN_TEXTS)]
            for (name, write), _ in itertools.product(GENERATORS.items(), range(AI_TEXTS)):
                made.append([write(language, prompt, draw), 1, prompt, name])
    draw.shuffle(made)
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="F.csv")
    arguments = parser.parse_args(argv)
    output = arguments.output
    with result_set(output, False, {output: None}) as results:
        with open(results.folder / output.name, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text", "label", "prompt_name", "source"], *rows()])
        results.publish(output.name)
    return 0


if __name__ == "__main__":
    run_main(main)
