"""The CPU's faster cells against the formulas they replace, and inside the whole model."""

import os

import numpy as np
import pytest

from tests.helpers.warm import run_warm

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def ms():
    import mindspore

    mindspore.set_context(mode=mindspore.GRAPH_MODE, device_target="CPU")
    return mindspore


def tensors(ms, *shapes):
    random = np.random.default_rng(1)
    return [ms.Tensor(random.normal(size=shape).astype(np.float32)) for shape in shapes]


def assert_same(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), atol=1e-5, rtol=1e-5)


def test_attention_and_its_gradients_equal_the_plain_formula(ms):
    from research_internlm.model.cpu_cells import AttentionCore

    query, key, value, weights = tensors(ms, *[(2, 3, 7, 4)] * 4)
    mask = ms.Tensor(np.triu(np.full((2, 1, 7, 7), -10000, np.float32), 1))

    def plain(query, key, value):
        scores = ms.ops.matmul(query, key.swapaxes(-1, -2)) + mask
        return (ms.ops.matmul(ms.ops.softmax(scores, -1), value) * weights).sum()

    core = AttentionCore()

    def fast(query, key, value):
        return (core(query, key, value, mask)[0] * weights).sum()

    assert_same([fast(query, key, value)], [plain(query, key, value)])
    assert_same(ms.grad(fast, (0, 1, 2))(query, key, value), ms.grad(plain, (0, 1, 2))(query, key, value))


def test_norm_and_its_gradients_equal_the_plain_formula(ms):
    from research_internlm.model.cpu_cells import NormCore

    x, weight, weights = tensors(ms, (2, 5, 8), (8,), (2, 5, 8))

    def plain(x, weight):
        return (x / ms.ops.sqrt((x * x).mean(-1, keep_dims=True) + 1e-6) * weight * weights).sum()

    core = NormCore()

    def fast(x, weight):
        return (core(x, weight, 1e-6)[0] * weights).sum()

    assert_same([fast(x, weight)], [plain(x, weight)])
    assert_same(ms.grad(fast, (0, 1))(x, weight), ms.grad(plain, (0, 1))(x, weight))


def drawn_masks(ms, p, count, shape):
    from research_internlm.model.cpu_cells import SparseDropout

    dropout = SparseDropout(p).set_train()
    ones = ms.Tensor(np.ones(shape, np.float32))
    return np.stack([dropout(ones).asnumpy() for _ in range(count)])


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_dropout_is_independent_with_the_asked_probability(ms, p):
    masks = drawn_masks(ms, p, 200, (40, 50))
    assert set(np.unique(masks)) == {np.float32(0), np.float32(1 / (1 - p))}
    dropped = masks == 0
    deviation = (p * (1 - p)) ** 0.5
    assert abs(dropped.mean() - p) < 5 * deviation / dropped.size ** 0.5
    # No position is favoured (200 draws each), the last ones included; at 0.05 the binomial's upper tail is
    # long: 8 deviations are 35 of 200, once in 10**10.
    assert np.abs(dropped.mean(0) - p).max() < 8 * deviation / 200 ** 0.5
    neighbours = (dropped.reshape(200, -1)[:, 1:] & dropped.reshape(200, -1)[:, :-1]).mean()
    assert abs(neighbours - p * p) < 6 * p / dropped.size ** 0.5
    counts = dropped.sum((1, 2))
    assert 0.7 < counts.var() / (2000 * p * (1 - p)) < 1.4  # binomial, not a fixed number


def test_two_dropouts_draw_different_masks_and_evaluation_draws_none(ms):
    from research_internlm.model.cpu_cells import SparseDropout

    ones = ms.Tensor(np.ones((30, 30), np.float32))
    first, second = SparseDropout(0.3).set_train(), SparseDropout(0.3).set_train()
    assert (first(ones).asnumpy() != second(ones).asnumpy()).any()
    assert (first.set_train(False)(ones).asnumpy() == 1).all()
    assert (SparseDropout(0.0).set_train()(ones).asnumpy() == 1).all()


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_uses_the_mask_of_the_forward_pass(ms, recompute):
    from research_internlm.model.cpu_cells import SparseDropout

    class Squared(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.dropout = SparseDropout(0.4)

        def construct(self, x):
            dropped = self.dropout(x)
            return dropped * dropped

    squared = Squared().set_train()
    if recompute:
        squared.recompute()
    x, = tensors(ms, (20, 20))

    def total(x):
        return squared(x).sum()

    value, gradient = ms.value_and_grad(total)(x)
    squared_mask = gradient.asnumpy() / (2 * x.asnumpy())
    assert value.asnumpy() == pytest.approx((squared_mask * x.asnumpy() ** 2).sum(), rel=1e-4)


def test_loss_and_gradients_of_the_whole_model_are_the_stock_ones():
    """The script prints the differences of loss and gradients, how many gradients, the largest one."""
    done = run_warm("-m", "tests.helpers.fast_and_stock_model")
    loss, gradient, compared, largest = map(float, done.stdout.split()[-4:])
    assert loss < 1e-5
    assert gradient < 1e-5
    assert compared == 16  # 2 layers x 4 LoRA cells x (a, b)
    assert largest > 1e-3


@pytest.mark.parametrize(("cores", "workers"), [(2, 2), (8, 3), (5, 5), (2, 4), (1, 2)])
def test_workers_share_the_cores(cores, workers):
    from research_internlm.model.cpu_patches import core_share

    shares = [core_share(range(10, 10 + cores), number, workers) for number in range(workers)]
    assert all(shares) and {core for share in shares for core in share} == {*range(10, 10 + cores)}
    if workers <= cores:
        assert sum(map(len, shares)) == cores


def test_a_process_of_its_own_keeps_all_cores(monkeypatch):
    from research_internlm.model import cpu_patches

    for name, value in {"MS_WORKER_NUM": "2", "RANK_ID": "1"}.items():  # of another system's job
        monkeypatch.setenv(name, value)
    before = os.sched_getaffinity(0)
    cpu_patches._share_cores()
    assert os.sched_getaffinity(0) == before
