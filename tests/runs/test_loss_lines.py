"""Lines of MindFormers logs, in both formats and as versions, consoles and kills leave them."""

import pytest

from research_internlm.runs.loss_lines import Evaluation, Parameters, Record, Unreadable, events
from tests.helpers.log_lines import LINE_2024

LINE_190 = ("2026-11-23 15:41:47,567 - mindformers/log[mindformers/core/callback/callback.py:747] - INFO - "
            "{ Epoch:[  1/  1], step:[    2/    8], loss:[7.068600/7.065298], per_step_time: 201ms, "
            "lr: 4.8096987e-05, overflow cond: False, loss_scale: 16384.0, global_norm: [0.9897672], "
            "train_throughput_per_npu: 0.014T")


def only(text):
    [event] = events(text + "\n")
    return event


def test_line_of_2024():
    record = only(LINE_2024)
    assert (record.step, record.total_steps, record.epoch) == (4 * 1725 + 1508, 17_250, 5)
    assert (record.loss, record.step_ms, record.learning_rate) == (1.215, 3772, 2.7e-05)
    assert record.loss_scale == 32768
    assert record.overflow is False and record.global_norm is None and record.time.day == 11


def test_line_of_this_version():
    record = only(LINE_190)
    assert (record.step, record.loss, record.step_ms, record.learning_rate, record.global_norm) == (
        2, 7.0686, 201, 4.8096987e-05, 0.9897672)


@pytest.mark.parametrize(("old", "new", "field", "value"), [
    ("overflow cond: False", "overflow cond: [ True]", "overflow", True),
    ("overflow cond: False", "overflow cond: true", "overflow", True),
    ("overflow cond: False", "overflow cond: Tensor(shape=[], dtype=Bool, value= True)", "overflow", True),
    (", overflow cond: False, loss_scale: 32768.0", "", "overflow", False),
    ("loss_scale: 32768.0", "loss_scale: unavailable", "loss_scale", None),
    ("loss_scale: 32768.0", "loss_scale: [32768.]", "loss_scale", 32768.0),
    ("loss_scale: 32768.0", "loss_scale: 32768.0}", "loss_scale", 32768.0),
    ("loss_scale: 32768.0", "loss_scale: 32768.0\x1b[0m", "loss_scale", 32768.0),
    (", loss_scale: 32768.0", "", "loss_scale", None),
    ("lr: 2.7e-05, ", "", "learning_rate", None),
    ("lr: 2.7e-05", "lr: [2.7e-05]", "learning_rate", 2.7e-05),
    ("lr: 2.7e-05", "lr: 2.7e", "learning_rate", None),
    ("loss: 1.215", "loss: nan", "loss", "nan"),
    ("loss: 1.215", "loss: 1.5, lm_loss: 0.5", "loss", 1.5),
    ("loss: 1.215", "loss: Tensor(shape=[], dtype=Float32, value= 1.5)", "loss", 1.5),
    ("{ Epoch:[", "{Epoch:[", "step", 8408),
    ("{ Epoch:[", "\x1b[32m{ \x1b[1mEpoch:\x1b[0m[", "step", 8408),
    ("3772ms", "3772.5ms", "step_ms", 3772.5),
    ("3772ms", "3772 ms", "step_ms", 3772.0),
])
def test_variants_of_the_line(old, new, field, value):
    assert old in LINE_2024
    record = only(LINE_2024.replace(old, new))
    assert isinstance(record, Record) and str(getattr(record, field)) == str(value)


@pytest.mark.parametrize("end", ["step:[ 15", "loss: 1.2", "per_step_time: 37"])
def test_a_torn_line_is_none_and_does_not_take_the_next_one_with_it(end):
    torn = LINE_2024[:LINE_2024.index(end) + len(end)]
    assert isinstance(only(torn), Unreadable)
    first, second = events(torn + LINE_190 + "\n")
    assert isinstance(first, Unreadable) and second == only(LINE_190)


@pytest.mark.parametrize(("text", "number", "millions"), [
    ("16777216", 16_777_216, False), ("16,777,216 M.", 16_777_216, False), ("16 M.", 16_000_000, True),
    ("16.777216 M.", 16_777_216, False), ("16.78 M.", 16_780_000, True),
])
def test_network_parameters(text, number, millions):
    assert only(f"INFO - Network Parameters: {text}") == Parameters(number, millions)


@pytest.mark.parametrize("text", ["1.25", "np.float32(1.25)", "[1.25]", "array([1.25], dtype=float32)",
                                  "Tensor(shape=[], dtype=Float32, value= 1.25)"])
def test_an_evaluation_s_loss_however_it_is_printed(text):
    result = "step: 1 Eval result: {'PerplexityMetric': {'loss': %s, 'PPL': 3.4}}, eval time is 3 s."
    assert only(result % text) == Evaluation(1.25)
    assert isinstance(only(result % "what?"), Unreadable)


def test_other_lines_say_nothing():
    assert events("Epoch: 3\n") == events("  1.2% |    | 0.3 samples/s/p  0:01:02 }\n") == []


@pytest.mark.parametrize("line", [
    LINE_190.replace("2026-11", "2026-13"), LINE_190.replace("2026-11-23", "2026-02-30"),
    LINE_190.replace("201ms", "nanms"), LINE_190.replace("201ms", "infms"),
    LINE_190.replace("2026", "0000"), LINE_190.replace("   2/", "9" * 5000 + "/"),
    "pipeline stages: 0 > 1, the loss on the last card is valid.",
    f"pipeline stages: {'9' * 5000} > 1, the loss on the last card is valid.",
    f"INFO - Network Parameters: {'9' * 5000}.",
])
def test_what_a_damaged_line_says_is_unreadable_and_ends_nothing(line):
    assert isinstance(only(line), Unreadable)
