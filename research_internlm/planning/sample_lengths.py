"""How long the samples of a data set are, and what each seq_length would cut, pad and pack."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from preprocess.mindrecord.encoding import BLOCK_ITEMS, Encoder, encode_blocks
from preprocess.mindrecord.packing import assign_rows
from research_internlm.data.conversations import MESSAGES
from research_internlm.data.detection import CLASS_NAMES, is_detection
from research_internlm.data.families import UPSTREAM_END
from research_internlm.data.rows import fits, record_length
from research_internlm.data.tokens import SpecialTokens

SEQ_LENGTHS = (512, 1024, 2048, 4096)
MOST_CUT = 0.01  # of any class: what is cut is on one side, so the share of all samples would hide it
_PERCENTILES = (50, 90, 95, 99, 100)
_FIELDS = ("instruction", "input", "text", "passage", "question")  # `answer` is what has labels
_ALL = "all"

Lengths = dict[str, np.ndarray]  # field (`sample` is the whole) -> tokens of each item


def class_of(item: Mapping[str, Any]) -> str:
    """`human` or `AI` of a text to be judged, the source of an exam question, `all` of anything else."""
    if is_detection(item):
        return CLASS_NAMES[item["label"]]
    return str(item.get("source") or _ALL)


def _texts_of(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Field and text of what is shown to the model; of a conversation role and text of each message."""
    if MESSAGES in item:
        return [(message["role"], message["content"]) for message in item[MESSAGES]]
    return [(name, item[name]) for name in _FIELDS if isinstance(item.get(name), str)]


def measure(items: Iterable[Mapping[str, Any]], processor: sentencepiece.SentencePieceProcessor,
            special: SpecialTokens, threads: int = 2, end: str = UPSTREAM_END) -> dict[str, Lengths]:
    """Counts the tokens of items as the converter encodes them, uncut.

    Args:
        items: Training items, streamed.
        processor: The loaded vocabulary.
        special: Its special ids.
        threads: Encoding threads.
        end: How chat answers end.

    Returns:
        For each class the lengths by field. `sample` is all of a sample, `answer` what is supervised, end
        markers included; the fields between are encoded alone, so chat markers make the rest. A field of a
        conversation is a role with all its messages.
    """
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    fields = Encoder(processor, threads)
    for_fields, for_samples = itertools.tee(items)  # apart by one block
    for block in encode_blocks(for_samples, processor, special, threads, end):
        chunk = list(itertools.islice(for_fields, BLOCK_ITEMS))
        encoded = fields.encode({text for item in chunk for _, text in _texts_of(item)})
        answers = np.add.reduceat(block.supervised.astype(int), np.cumsum([0, *block.lengths[:-1]]))
        for item, length, answer in zip(chunk, block.lengths.tolist(), answers.tolist(), strict=True):
            own = found[class_of(item)]
            own["sample"].append(length)
            own["answer"].append(answer)
            counts = Counter()
            for name, text in _texts_of(item):
                counts[name] += len(encoded[text]) // np.int32().itemsize
            for name, count in counts.items():
                own[name].append(count)
    return {name: {field: np.array(values) for field, values in fields.items()}
            for name, fields in sorted(found.items())}


def summary(lengths: Mapping[str, Lengths], seed: int = 42) -> dict[str, Any]:
    """Everything that is said about a data set.

    Args:
        lengths: Of `measure`.
        seed: Of the packing that is tried.

    Returns:
        `classes` (items, and mean and percentiles by field), `seq_lengths` (costs of each of SEQ_LENGTHS) and
        `recommended`.
    """
    samples = {name: fields["sample"] for name, fields in lengths.items()}
    costs = [cost(samples, seq_length, seed) for seq_length in SEQ_LENGTHS]
    fitting = [row["seq_length"] for row in costs if max(row["too_long_share"].values()) <= MOST_CUT]
    return {
        "classes": {name: {"items": len(fields["sample"]),
                           "tokens": {field: _describe(values) for field, values in fields.items()}}
                    for name, fields in lengths.items()},
        "seq_lengths": costs,
        "recommended": {"seq_length": min(fitting, default=SEQ_LENGTHS[-1]), "most_cut_of_a_class": MOST_CUT,
                        "holds": bool(fitting)},
    }


def _describe(values: np.ndarray) -> dict[str, float]:
    return {"mean": round(float(values.mean()), 1),
            **{f"p{share}": int(value) for share, value in zip(
                _PERCENTILES, np.percentile(values, _PERCENTILES, method="higher"), strict=True)}}


def cost(samples: Mapping[str, np.ndarray], seq_length: int, seed: int) -> dict[str, Any]:
    """What a seq_length does to samples.

    Args:
        samples: Class -> tokens of each sample.
        seq_length: Tokens; rows of training have one more.
        seed: Of the packing.

    Returns:
        `too_long` and `too_long_share` by class; `cut_tokens`, those beyond the row; `padding`, the share of
        unpacked rows without a token; `packed_rows`, `packed_fill` (share of their positions with a token)
        and `rows_saved_by_packing` (unpacked rows / packed rows). Too long samples are counted as cut to the
        row, as texts to be judged are.
    """
    length = record_length(seq_length)
    everything = np.concatenate(list(samples.values()))
    cut = np.minimum(everything, length)
    rows = sum(1 for _ in assign_rows(cut.tolist(), length, seed))
    long = {name: int(np.count_nonzero(~fits(values, length))) for name, values in samples.items()}
    return {
        "seq_length": seq_length,
        "too_long": long,
        "too_long_share": {name: long[name] / len(values) for name, values in samples.items()},
        "cut_tokens": int((everything - cut).sum()),
        "padding": 1 - cut.sum() / (len(cut) * length),
        "packed_rows": rows,
        "packed_fill": cut.sum() / (rows * length),
        "rows_saved_by_packing": len(cut) / rows,
    }


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The tables that are printed."""
    heads = ("mean", *(f"p{share}" for share in _PERCENTILES[:-1]), "max")
    yield f"{'class':<10} {'field':<12}" + "".join(f"{head:>8}" for head in heads)
    for name, own in result["classes"].items():
        for field, numbers in own["tokens"].items():
            yield f"{name:<10} {field:<12}" + "".join(f"{number:>8}" for number in numbers.values())
        yield f"{name:<10} {own['items']} samples"
    yield ""
    names = list(result["classes"])
    yield ("seq_length" + "".join(f"{f'too long {name}':>18}" for name in names)
           + f"{'padding':>10}{'packed rows':>13}{'fill':>8}{'saves':>8}")
    for row in result["seq_lengths"]:
        yield (f"{row['seq_length']:>10}"
               + "".join(f"{row['too_long'][name]:>10} {row['too_long_share'][name]:>7.2%}" for name in names)
               + f"{row['padding']:>10.1%}{row['packed_rows']:>13}{row['packed_fill']:>8.1%}"
               f"{row['rows_saved_by_packing']:>7.1f}x")
    best = result["recommended"]
    if best["holds"]:
        yield (f"recommended: seq_length {best['seq_length']}, the smallest at which at most "
               f"{best['most_cut_of_a_class']:.0%} of any class is too long; --pack avoids the padding")
    else:
        yield (f"recommended: seq_length {best['seq_length']}, the largest looked at; more than "
               f"{best['most_cut_of_a_class']:.0%} of a class is longer")


def draw(lengths: Mapping[str, Lengths], path: Path) -> None:
    """Histogram of the samples' tokens by class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    longest = max(fields["sample"].max() for fields in lengths.values())
    bins = np.linspace(0, longest, 61)
    for name, fields in lengths.items():
        axes.hist(fields["sample"], bins=bins, histtype="step", linewidth=1.5,
                  label=f"{name} ({len(fields['sample'])})")
    for seq_length in SEQ_LENGTHS:
        if seq_length < longest:
            axes.axvline(seq_length, color="grey", linestyle=":", linewidth=1)
    axes.set(title="Tokens of a sample", xlabel="tokens", ylabel="samples")
    axes.legend()
    axes.grid(alpha=0.3)
    # No creation date inside: the same data gives the same bytes.
    figure.savefig(path, dpi=120, metadata={"Software": None})
