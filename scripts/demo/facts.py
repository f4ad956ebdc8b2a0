"""The demo's knowledge: real facts in English and Chinese, one table per category.

A category is (source, subject, question wording, statement wording, {subject: answer}). MMLU categories
are English, CMMLU categories Chinese; together 8 categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One table of facts.

    Attributes:
        source: `mmlu` or `cmmlu`, the csv format it is written in.
        name: File stem of its csv files.
        question: Wording with one `{}` for the subject.
        statement: Wording with `{0}` for the subject and `{1}` for the answer, for reading passages.
        facts: Subject to answer.
    """

    source: str
    name: str
    question: str
    statement: str
    facts: dict[str, str]

    @property
    def lookup(self) -> str:
        """Wording with one `{}` for an answer: asks which option says it, no knowledge needed."""
        return "Which option says {}?" if self.source == "mmlu" else "哪个选项是{}？"

    def joined(self, statements: Sequence[str]) -> str:
        """Statements as a passage."""
        return (" " if self.source == "mmlu" else "").join(statements)


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.strip().split("=") for pair in text.replace("\n", ";").split(";") if pair.strip())


CATEGORIES = [
    Category("mmlu", "city_countries", "In which country does the city of {} lie?",
             "The city of {0} lies in {1}.", _pairs("""
        Lyon=France; Marseille=France; Bordeaux=France; Toulouse=France; Milan=Italy; Naples=Italy
        Turin=Italy; Venice=Italy; Barcelona=Spain; Seville=Spain; Malaga=Spain; Bilbao=Spain
        Hamburg=Germany; Munich=Germany; Cologne=Germany; Dresden=Germany; Osaka=Japan; Kyoto=Japan
        Nagoya=Japan; Kobe=Japan; Toronto=Canada; Montreal=Canada; Vancouver=Canada; Calgary=Canada
        Mumbai=India; Chennai=India; Kolkata=India; Jaipur=India; Krakow=Poland; Gdansk=Poland""")),
    Category("mmlu", "country_continents", "On which continent does {} lie?",
             "The country of {0} lies in {1}.", _pairs("""
        Nigeria=Africa; Ghana=Africa; Morocco=Africa; Algeria=Africa; Tunisia=Africa; Zambia=Africa
        Uganda=Africa; Senegal=Africa; Mali=Africa; Chad=Africa; Oman=Asia; Nepal=Asia; Mongolia=Asia
        Laos=Asia; Cambodia=Asia; Pakistan=Asia; Bhutan=Asia; Jordan=Asia; Brazil=America; Mexico=America
        Bolivia=America; Uruguay=America; Paraguay=America; Ecuador=America; Honduras=America
        Estonia=Europe; Latvia=Europe; Croatia=Europe; Slovenia=Europe; Iceland=Europe""")),
    Category("mmlu", "instrument_families", "To which family of instruments does the {} belong?",
             "The {0} is one of the {1}.", _pairs("""
        violin=strings; viola=strings; cello=strings; harp=strings; guitar=strings; lute=strings
        banjo=strings; mandolin=strings; flute=woodwinds; oboe=woodwinds; clarinet=woodwinds
        bassoon=woodwinds; piccolo=woodwinds; saxophone=woodwinds; recorder=woodwinds; trumpet=brasses
        trombone=brasses; tuba=brasses; cornet=brasses; bugle=brasses; flugelhorn=brasses
        timpani=percussion; xylophone=percussion; vibraphone=percussion; tambourine=percussion
        triangle=percussion; gong=percussion; marimba=percussion; glockenspiel=percussion""")),
    Category("mmlu", "animal_classes", "To which class of animals does the {} belong?",
             "The {0} belongs to the {1}.", _pairs("""
        whale=mammals; bat=mammals; dolphin=mammals; horse=mammals; tiger=mammals; camel=mammals
        eagle=birds; penguin=birds; ostrich=birds; sparrow=birds; owl=birds; swan=birds; pigeon=birds
        crocodile=reptiles; turtle=reptiles; lizard=reptiles; cobra=reptiles; gecko=reptiles; iguana=reptiles
        salmon=fish; shark=fish; tuna=fish; carp=fish; herring=fish; trout=fish; ant=insects; bee=insects
        butterfly=insects; beetle=insects; mosquito=insects""")),
    Category("cmmlu", "city_provinces", "{}位于哪个省？", "{0}位于{1}省。", _pairs("""
        苏州=江苏; 无锡=江苏; 扬州=江苏; 徐州=江苏; 宁波=浙江; 温州=浙江; 绍兴=浙江; 嘉兴=浙江; 青岛=山东
        烟台=山东; 潍坊=山东; 淄博=山东; 洛阳=河南; 开封=河南; 安阳=河南; 南阳=河南; 东莞=广东; 佛山=广东
        珠海=广东; 汕头=广东; 绵阳=四川; 宜宾=四川; 乐山=四川; 泸州=四川; 大连=辽宁; 鞍山=辽宁; 抚顺=辽宁
        丹东=辽宁""")),
    Category("cmmlu", "historical_dynasties", "{}是哪个朝代的人？", "{0}是{1}人。", _pairs("""
        李白=唐朝; 杜甫=唐朝; 白居易=唐朝; 王维=唐朝; 韩愈=唐朝; 魏征=唐朝; 玄奘=唐朝; 苏轼=宋朝
        王安石=宋朝; 欧阳修=宋朝; 岳飞=宋朝; 沈括=宋朝; 李清照=宋朝; 包拯=宋朝; 司马光=宋朝; 郑和=明朝
        李时珍=明朝; 徐光启=明朝; 戚继光=明朝; 王阳明=明朝; 张居正=明朝; 宋应星=明朝; 曹雪芹=清朝
        纪晓岚=清朝; 林则徐=清朝; 曾国藩=清朝; 蒲松龄=清朝; 张骞=汉朝; 司马迁=汉朝; 班固=汉朝
        蔡伦=汉朝; 张衡=汉朝; 华佗=汉朝; 卫青=汉朝; 霍去病=汉朝""")),
    Category("cmmlu", "literary_authors", "《{}》的作者是谁？", "《{0}》的作者是{1}。", _pairs("""
        阿Q正传=鲁迅; 呐喊=鲁迅; 彷徨=鲁迅; 狂人日记=鲁迅; 朝花夕拾=鲁迅; 故事新编=鲁迅; 骆驼祥子=老舍
        茶馆=老舍; 四世同堂=老舍; 龙须沟=老舍; 家=巴金; 春=巴金; 寒夜=巴金; 随想录=巴金; 子夜=茅盾
        林家铺子=茅盾; 春蚕=茅盾; 霜叶红似二月花=茅盾; 雷雨=曹禺; 日出=曹禺; 原野=曹禺; 北京人=曹禺
        边城=沈从文; 长河=沈从文; 湘行散记=沈从文; 女神=郭沫若; 屈原=郭沫若; 棠棣之花=郭沫若
        荷塘月色=朱自清; 背影=朱自清; 匆匆=朱自清""")),
    Category("cmmlu", "element_kinds", "{}属于哪一类元素？", "{0}属于{1}。", _pairs("""
        锂=碱金属; 钠=碱金属; 钾=碱金属; 铷=碱金属; 铯=碱金属; 铍=碱土金属; 镁=碱土金属; 钙=碱土金属
        锶=碱土金属; 钡=碱土金属; 镭=碱土金属; 氟=卤素; 氯=卤素; 溴=卤素; 碘=卤素; 氦=稀有气体
        氖=稀有气体; 氩=稀有气体; 氪=稀有气体; 氙=稀有气体; 氡=稀有气体; 铁=过渡金属; 铜=过渡金属
        锌=过渡金属; 银=过渡金属; 金=过渡金属; 镍=过渡金属; 铬=过渡金属; 锰=过渡金属; 钛=过渡金属""")),
]
