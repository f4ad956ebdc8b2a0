"""The orderings of a question's options, and which questions must not be reordered.

The report shows every question in six orders: its own, then five others, all distinct, the letter following
its text. An option such as "Both A and C" or "以上都对" says something else once the options move, so a
question that has one keeps its own order every time (the number of items stays orderings x questions).

The rule below prefers a needless match to a missed one: a missed one trains a wrong answer, a needless one
only shows a question in its own order. Hence "A and B" always counts, even where the question itself speaks
of an A and a B, and so does "甲和乙". What does not count: statements the question numbers itself
("I and II", "①②"), and words such as "above" in another sense ("above the law", "2000元以上").
"""

from __future__ import annotations

import itertools
import random
import re
import unicodedata
from collections.abc import Sequence

ORDERS = tuple(itertools.permutations(range(4)))  # ORDERS[0] is the original order

# -- English, matched against lower-case text ----------------------------------------------------------

_QUANTIFIER = r"(?:all|none|neither|nither|either|both|any|each|some|more than one|one|two|three|[23])"
_OPTION_NOUN = r"(?:options?|choices|answers?|alternatives)"
_CORRECT = r"(?:correct|true|right|wrong|false|incorrect)"
_NOUN_END = rf"(?= *(?:$|[.,;:)]|above|below|listed|apply|(?:are|is) (?:all )?{_CORRECT}))"
_LETTER = r"(?:\(?[a-d]\)|\b[a-d]\b)"
_LETTER_SEPARATOR = r"(?:\s*[,&;、]\s*(?:and|or|nor)?\s*|\s+(?:and|or|nor|but not|not)\s+|\s+)"
_LETTER_LIST = rf"{_LETTER}(?:{_LETTER_SEPARATOR}{_LETTER})+"
_LETTER_PREFIX = r"(?:(?:both|either|neither|all of|none of|any of|only)(?: of)?\s+)"
_VERDICT = rf"(?:\s+(?:only|alone|both.*|together|above|(?:are|is)(?: all| both)? {_CORRECT}))"

_ENGLISH_ANYWHERE = re.compile("|".join((
    r"\bthe (?:above|foregoing|aforementioned)(?![-\w])",
    rf"\b{_QUANTIFIER} (?:of )?(?:the )?(?:above|below|foregoing|preceding|previous)"
    rf"(?= *(?:$|[.,;:)\-]|{_OPTION_NOUN}))",
    rf"\b(?:above|preceding|previous|foregoing) {_OPTION_NOUN}\b",
    r"\b(?:listed|mentioned|stated|described|given|statements?|items|reasons|factors|methods) "
    r"(?:above|below)\b",
    rf"\b(?:{_QUANTIFIER}|other) of (?:these|those|the others?)\b",
    rf"\b{_QUANTIFIER} (?:of )?(?:the )?(?:other |listed |given )?(?:two |three )?"
    rf"{_OPTION_NOUN}{_NOUN_END}",
    rf"\b(?:these|those|other|first|second|third|last) (?:two |three )?{_OPTION_NOUN}{_NOUN_END}",
)))
_ENGLISH_WHOLE = re.compile("|".join((
    rf"(?:all|none|neither|both|either)(?: of them| one)?(?: (?:are|is))?(?: (?:apply|{_CORRECT}))?",
    rf"(?:(?:{_OPTION_NOUN}|statements?) )?{_LETTER_LIST}{_VERDICT}?(?:[;:.,(].*)?",
    rf"(?:only {_LETTER}|{_LETTER} (?:only|alone))(?: is (?:correct|true))?",
    rf"{_LETTER_PREFIX}{_LETTER_LIST}.*",
    r"(?:both|either|neither) [1-4] (?:and|or|nor) [1-4]",
)))
# Case matters: "answer a question", but "Answer A".
_NAMED_OPTION = re.compile(
    r"\b(?i:options?|choices?|answers?|alternatives?) (?:[A-D]\b(?!['’])|\([A-Da-d]\))")

# -- Chinese, matched against text without spaces and LaTeX marks --------------------------------------

_ALL = r"(?:全部|全都|全|都|皆|均|两者|二者|三者|四者)"
_VERDICT_ZH = (r"(?:不|没|无|未|非)?(?:是|对|正确|错误?|有误|可能?|可以|有可能|有|行|需要|包括|包含|符合|"
               r"属于|适用|成立|选)的?")
_ABOVE_NOUN = (r"(?:所有|全部|全|都|皆|均|各|任|选项|答案|说法|结论|情况|措施|内容|方法|因素|表述|描述|"
               r"叙述|观点|原因|条件|原则|特点|一切|诸|没有|无|不|非|是|有|[一二两三四几]|$)")
_LABELS = r"[A-D](?:(?:和|与|或|及|以及|或者|且|并|、|,|;|/|\+)[A-D])+"
_STEMS = r"[甲乙丙丁](?:[和与或及、,]|以及|或者)[甲乙丙丁](?:(?:[和与或及、,]|以及|或者)[甲乙丙丁])*"

_CHINESE_ANYWHERE = re.compile("|".join((
    rf"^(?:以上|上述|上面)的?{_ABOVE_NOUN}",
    r"(?:所有|全部|不是|并非|皆非|均非|非|除|同|包括|属于)(?:以上|上述)",
    r"(?:以上|上述)(?:所有|选项|答案|[两三四]项)",
    r"选项[A-D甲乙丙丁]|[A-D]选?项",
    r"(?:其他|其它|其余|另外)的?[一两二三四几]?[个项种]?的?(?:选项|答案)|^(?:其他|其它|其余)(?:都|均|皆)",
    r"前(?:面)?(?:[两二三]|几)[个项者种](?:选项|都|均|皆|$)|后[两二三][个项者](?:选项|都|均|皆|$)",
    r"第[一二三四](?:个|项)?选项",
    r"(?:没有|无)(?:一[个项])?(?:正确|合适)?(?:选项|答案)",
)))
_CHINESE_WHOLE = re.compile("|".join((
    rf"{_ALL}+(?:{_VERDICT_ZH})?",
    rf"(?:只有|仅|选|除)?{_LABELS}(?:[两二三]?[者项])?(?:(?:同时|以上|之和)|{_ALL}.{{0,8}}|{_VERDICT_ZH})?",
    r"[A-D]{2,4}(?:都|均|皆|全).{0,8}",
    r"(?:只有|仅)[A-D](?:正确|对)?|[A-D](?:正确|对)",
    rf"(?:只有|仅)?{_STEMS}(?:{_ALL}.{{0,6}})?|[甲乙丙丁]{{2,4}}(?:都|均|皆).{{0,6}}",
)))
_STEM_CONJUNCTION = re.compile(r"和|与|或|及|都|均|皆")

# -- positions named in the question itself ------------------------------------------------------------

_QUESTION = re.compile(
    r"\b(?i:options?|choices?|answers?) (?:[A-D]\b(?!['’])|\([A-Da-d]\))"
    r"|\b(?i:first|second|third|fourth|last|preceding|previous) (?i:two |three )?"
    r"(?i:options?|answers?|alternatives?)\b"
    r"|选项[A-D]|[A-D]选项|第[一二三四]个?选项|[前后][一二两三]个?选项")


def points_at_options(option: str) -> bool:
    """Whether an option speaks of other options or of their position.

    Args:
        option: The option's text, English or Chinese.
    """
    text = unicodedata.normalize("NFKC", option).strip().rstrip(".。 ")
    english = " ".join(text.lower().split())
    if _ENGLISH_ANYWHERE.search(english) or _ENGLISH_WHOLE.fullmatch(english) or _NAMED_OPTION.search(text):
        return True
    chinese = re.sub(r"\\mathrm|[\s${}]", "", text)
    if _CHINESE_ANYWHERE.search(chinese):
        return True
    if not _CHINESE_WHOLE.fullmatch(chinese):
        return False
    # "甲、乙、丙" alone is a ranking or a list of the question's own; "甲和乙" joins two answers
    return not chinese.startswith(tuple("甲乙丙丁")) or bool(_STEM_CONJUNCTION.search(chinese))


def depends_on_order(question: str, options: Sequence[str]) -> bool:
    """Whether a question is wrong or senseless once its options are reordered.

    Args:
        question: The question's text.
        options: Its four options.
    """
    named_in_question = _QUESTION.search(unicodedata.normalize("NFKC", question))
    return bool(named_in_question) or any(map(points_at_options, options))


def choose_orders(options: Sequence[str], count: int, generator: random.Random) -> list[tuple[int, ...]]:
    """Orders in which a question is shown: its own first, then others drawn at random.

    Orders that show the same four texts (two options may be equal) count as one. Where fewer distinct
    ones exist than asked for, they are repeated from the first on.

    Args:
        options: The four options in their own order.
        count: How many orders, 1 to 24.
        generator: Draws the others.

    Returns:
        `count` permutations; permutation[i] is the original place of the option shown at place i.
    """
    others = list(ORDERS[1:])
    generator.shuffle(others)
    distinct = {}
    for order in (ORDERS[0], *others):
        distinct.setdefault(tuple(options[place] for place in order), order)
        if len(distinct) == count:
            break
    return list(itertools.islice(itertools.cycle(distinct.values()), count))
