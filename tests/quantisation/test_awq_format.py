"""The AWQ GEMM format: the check word, the format's own formula written independently, and rounding."""

import numpy as np
import pytest

from research_internlm.quantisation.awq_format import Groups, from_gemm, pack, quantize, to_gemm, unpack
from research_internlm.quantisation.smoothing import channel_scales, rounding_error, search, weight_importance


def awq_dequantize(qweight, qzeros, scales, group_size):
    """AutoAWQ's way, in Python's whole numbers: take the nibbles in order, put columns back, subtract, scale.

    Source: awq/utils/packing_utils.py, unpack_awq and reverse_awq_order, and dequantize_gemm.
    """
    def nibbles(words):
        rows = []
        for row in words.tolist():
            columns = []
            for word in row:
                eight = [(word >> shift) & 15 for shift in range(0, 32, 4)]
                columns += [eight[place] for place in (0, 4, 1, 5, 2, 6, 3, 7)]
            rows.append(columns)
        return np.array(rows)

    numbers, zeros = nibbles(qweight), nibbles(qzeros)
    weight = np.empty(numbers.shape, np.float16)
    for row in range(len(numbers)):
        group = row // group_size
        weight[row] = (numbers[row] - zeros[group]).astype(np.float16) * scales[group]
    return weight.T


def random_weight(rows=16, columns=64, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, (rows, columns)).astype(np.float32)


def test_the_check_word():
    assert pack(np.arange(8, dtype=np.uint8)[None]).tolist() == [[0x75316420]]
    assert unpack(np.array([[0x75316420]], np.int32)).tolist() == [[*range(8)]]


def test_a_word_with_its_highest_bit_is_a_negative_number_and_comes_back():
    numbers = np.full((1, 8), 15, np.uint8)
    assert pack(numbers).tolist() == [[-1]]
    assert (unpack(pack(numbers)) == numbers).all()


def test_the_tensors_are_what_the_format_s_own_formula_reads():
    groups = quantize(random_weight(), 32)
    tensors = to_gemm(groups)
    assert {name: (part.dtype, part.shape) for name, part in tensors.items()} == {
        "qweight": (np.int32, (64, 2)), "qzeros": (np.int32, (2, 2)), "scales": (np.float16, (2, 16))}
    expected = awq_dequantize(tensors["qweight"], tensors["qzeros"], tensors["scales"], 32)
    assert (groups.values() == expected).all()
    assert (from_gemm(tensors).values() == expected).all()


def test_the_numbers_by_hand():
    # 15 levels from -0.7 to 0.8 are steps of 0.1, and -0.7 is 7 of them below 0.
    weight = np.array([[-0.7, 0.8, 0.04, -0.26]], np.float32)
    groups = quantize(weight, 4)
    assert groups.zeros.tolist() == [[7]] and groups.scales.tolist() == [[np.float16(0.1)]]
    assert groups.numbers.tolist() == [[0, 15, 7, 4]]


@pytest.mark.parametrize("weight", [
    np.linspace(0.5, 0.6, 32), np.linspace(-0.6, -0.5, 32), np.full(32, 0.25), np.zeros(32),
    np.linspace(-1e-7, 1e-7, 32), np.linspace(-0.1, 0.3, 32)])
def test_a_group_of_one_sign_stays_on_the_levels_and_near_its_weights(weight):
    weight = weight[None].astype(np.float32)
    groups = quantize(weight, 32)
    assert groups.numbers.max() <= 15 and groups.zeros.max() <= 15
    half_a_step = max(np.ptp(np.append(weight, 0)), 1e-5) / 15 / 2
    assert np.abs(groups.values() - weight).max() <= 1.1 * half_a_step


def test_groups_are_of_neighbours_in_a_row():
    weight = np.ones((2, 64), np.float32)
    weight[1, 32:] = 8
    assert np.allclose(quantize(weight, 32).scales, [[1 / 15, 1 / 15], [1 / 15, 8 / 15]], rtol=1e-3)


def test_importance_and_scales_by_hand():
    weight = np.array([[1, -2, 4, 4], [3, 3, 0, 1]], np.float32)
    # Row 0: 1/2, 1, 1, 1; row 1: 1, 1, 0, 1 (groups of two).
    assert weight_importance([weight], 2).tolist() == [0.75, 1, 0.5, 1]
    # r 0.5: sqrt(act / w) = 2, 1, 2, 4 for act 3, 1, 2, 16; the product of largest and smallest becomes 1.
    scales = channel_scales(np.array([3, 1, 2, 16.0]), np.array([0.75, 1, 0.5, 1]), 0.5)
    assert np.allclose(scales, np.array([2, 1, 2, 4]) / 2)


def test_the_search_lowers_the_error_where_channels_differ_and_never_raises_it():
    random = np.random.default_rng(3)
    weights = [random_weight(24, 64, 1), random_weight(16, 64, 2)]
    inputs = random.normal(0, 1, (40, 64)).astype(np.float32)
    inputs[:, [3, 40]] *= 60  # the outliers that AWQ is for
    found = search(weights, inputs, np.abs(inputs).mean(0), 32)
    assert found.plain_error == pytest.approx(rounding_error(weights, inputs, None, 32))
    assert found.error < 0.3 * found.plain_error
    assert found.scales[[3, 40]].min() > np.delete(found.scales, [3, 40]).max()
    # Written again: outputs of the rounded layer with divided inputs, against those of the layer itself.
    joined = np.concatenate(weights)
    rounded = quantize(joined * found.scales, 32).values().astype(np.float64)
    difference = inputs / found.scales @ rounded.T - inputs.astype(np.float64) @ joined.T
    assert found.error == pytest.approx((difference ** 2).mean(), rel=1e-3)


def test_where_scaling_does_not_help_the_weights_stay():
    levels = Groups(np.tile(np.arange(16, dtype=np.uint8), (8, 4)), np.full((8, 2), 7, np.uint8),
                    np.full((8, 2), 0.125, np.float16))
    found = search([levels.values().astype(np.float32)], np.ones((4, 64), np.float32), np.ones(64), 32)
    assert found.scales is None and found.ratio is None and found.error == found.plain_error == 0


def test_channels_of_a_zero_norm_keep_their_scale():
    random = np.random.default_rng(4)
    inputs = random.normal(0, 1, (40, 64)).astype(np.float32) * np.linspace(0.1, 20, 64, dtype=np.float32)
    fixed = np.zeros(64, bool)
    fixed[-1] = True
    found = search([random_weight(32, 64, 5)], inputs, np.abs(inputs).mean(0), 32, fixed)
    assert found.scales[-1] == 1 and (found.scales[:-1] != 1).any()
