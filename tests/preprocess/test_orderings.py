"""Which questions may be reordered, and what the orders are."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.exam.orderings import ORDERS, choose_orders, depends_on_order, points_at_options

POINTING = """
Both A and C | both a and b. | A and B only | A, B, and C | A B and C | A & B | Neither A nor B
either (a) or (b) | (A) and (B) both in the same way. | All of (a), (b) and (c) will be true.
Both B and C are correct; see above | Only A and B | A only | Options A and C | Answer A
option (b) is right | Both 2 and 3. | both A and B are true | All of the above | None of the above.
all of above. | None of above | Any of the above. | Either of above. | Nither of above. | all of below.
All the above | Any 2 of the above values | Two of the above | To achieve all the functions listed above
Moons contribute to all of the above. | More than one of the above
none of the above; blood does not preserve | None of the above - it is better | All of these
None of these options. | All of these options. The environment is both | none of the other options
All choices are false | All answers | All are correct | None | Both | Neither | All of them | Both are true
The first two options | No, all of these | 以上都对 | 以上都不对。 | 以上皆非 | 以上均是理想的特征
以上说法都不正确 | 以上所有方法 | 以上三者都是 | 以上选项均正确 | 上述都是 | 上述说法均错误 | 所有以上
以上全部 | 以上三点都对 | 以上两项 | 以上答案都不对 | 以上结论均不对 | 以上诸项皆是 | 都不是 | 都对 | 皆不是
全部正确 | 全都是 | 都有可能 | 均可 | 两者都是 | 全选 | 都不正确 | 二者皆可 | A和C | A和C均是 | A，B和C均对
$\\mathrm{A}，\\mathrm{B}$均是 | A、B都不对 | A，B，C均可 | AB都对 | A与B | 选项A | 只有A | A项和B项
A和B两项 | 其他三个选项都不正确 | 其余选项均错 | 前两项都是 | 前三者均可 | 后两项 | 第一个选项
没有正确答案 | 甲和乙 | 甲和乙都对 | 仅乙和丙 | 甲、乙和丙 | 甲乙都不对 | 不属于上述任何一种 | 无正确选项
"""

ORDER_FREE = """
No-one is above the law. | 98% or above. | just below 32 degrees | is always below the cost curve
all Protestants only | Excess consumption of Vitamins A and C | P(A, B | C) * P(C)
A and B are equally good athletes. | A dove (bird) | Both the length and area | Both SRAM and DRAM
either series or parallel. | Neither accurate nor precise | I and II only | I, II, and III | 1 and 2
free choices | Discrete choice | He has no answer. | drug of first choice
Interpret the answers you get from people | They all are eukaryotic. | All sulfates are soluble
AP rises above it | Rational-choice theory | B cells | T cells and B cells | A lathe | D.C. McClelland
Both would increase. | Blood type AB | all positive disturbances
the duty to not interfere with the free choices of others. | Those closest to us | Type A | 2000元以上
100元以上200元以下 | 中级以上人民法院 | 18周岁以上60周岁以下 | 在地平线以上 | 两个以上水电厂垮坝
三年以上均可 | 样本均数 | 平均产量 | 均匀磁场 | 全身化疗 | 安全需要 | 都是雌性 | 都是非集合概念
双亲都是纯合体 | 若A+B可逆，则A，B都可逆 | T细胞和B细胞都是由造血干细胞发育成的 | 丙、甲、乙 | 甲>乙
甲、乙、丙 | 甲公司与乙公司 | 甲状腺全切术 | 丁克家庭 | 其他 | 草木皆兵 | ①② | ①和③ | 主项、谓项都不周延
这个班的学生，除了七名女学生外，其余都是男生 | 班固的《两都赋》 | AB | AC | 其他关系
"""


def table(text):
    return [cell.strip() for line in text.strip().split("\n")
            for cell in line.replace("(A, B | C)", "(A, B ¦ C)").split(" | ")]


@pytest.mark.parametrize("option", table(POINTING))
def test_options_that_point_at_others_are_found(option):
    assert points_at_options(option)


@pytest.mark.parametrize("option", table(ORDER_FREE))
def test_options_that_stand_alone_are_left(option):
    assert not points_at_options(option)


@pytest.mark.parametrize(("question", "depends"), [
    ("Why is option B wrong?", True), ("Which is true if the first option is false?", True),
    ("下列说法与选项A一致的是", True), ("第二个选项的意思是", True),
    ("Which of these options is not a cause of cough?", False), ("Which drug is the first choice?", False),
    ("Which of the answers below best indicates the type?", False), ("下列选项中，属于代理情形的是", False),
])
def test_positions_named_in_the_question(question, depends):
    assert depends_on_order(question, ["w", "x", "y", "z"]) is depends


def test_one_pointing_option_is_enough():
    assert depends_on_order("q", ["x", "y", "z", "all of the above"])
    assert not depends_on_order("q", ["x", "y", "z", "above the clouds"])


@given(st.lists(st.text(max_size=3), min_size=4, max_size=4), st.integers(1, 24), st.integers())
def test_orders_start_with_the_original_and_are_as_distinct_as_can_be(options, count, seed):
    orders = choose_orders(options, count, random.Random(seed))
    shown = [tuple(options[place] for place in order) for order in orders]
    possible = len({tuple(options[place] for place in order) for order in ORDERS})
    assert orders[0] == (0, 1, 2, 3)
    assert len(orders) == count
    assert len(set(shown)) == min(count, possible)
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert max(Counter(shown).values()) - min(Counter(shown).values()) <= 1


def test_seed_decides_the_orders():
    draw = [tuple(choose_orders("wxyz", 6, random.Random(seed))) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]
