"""Entry point: which kinds of label token a checkpoint has learnt, beside its base (the loss audit).

    python research_internlm/contest/audit.py --config yaml/predict_mmlu.yaml --load_checkpoint CKPT \\
        --base BASE --dataset valid.mindrecord --model_file tokenizer.model --output audit.json

A mean loss hides what is not learnt. With a frozen head the end marker <eoa> may stay at its base loss of
about ln(vocab_size) nats, one token in ten, so the mean floors near 1.2 and answers never end (notes, trap
10). The audit gives the mean loss of each kind of label token, warns of kinds that do not improve, and shows
what the other end markers would cost at the same place.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from research_internlm import recipe as recipes
from research_internlm.contest.audit_findings import (
    Row,
    end_costs,
    own_end,
    row_kinds,
    summarize,
    table,
    unlearnt,
)
from research_internlm.contest.logs import json_ready
from research_internlm.dataset_check import check_mindrecord, mindrecord_files
from research_internlm.errors import ToolkitError, run_main
from research_internlm.files import (
    publish,
    read_manifest,
    require_absent,
    require_file,
    sha256_of,
    staging,
    write_json,
)
from research_internlm.label_kinds import end_ids
from research_internlm.tokens import IGNORE_ID, PAD_ID, SpecialTokens, load_tokenizer, special_tokens


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", required=True, help="predict recipe, e.g. yaml/predict_mmlu.yaml")
    add("--overlay", action="append", default=[], metavar="YAML",
        help="yaml laid over the recipe (repeatable)")
    add("--load_checkpoint", required=True, metavar="P",
        help="tuned weights: merged, or a full LoRA checkpoint")
    add("--base", metavar="P", help="the weights the run started from; without it nothing is compared")
    add("--dataset", required=True, metavar="F.mindrecord", help="rows to audit, unpacked")
    add("--model_file", required=True, metavar="F", help="tokenizer.model of the weights")
    add("--limit", type=int, metavar="N", help="only the first N rows (the result says so)")
    add("--output", required=True, metavar="F.json", help="result; a bar chart goes beside it as F.png")
    add("--overwrite", action="store_true", help="replace an existing result")
    return recipes.parse_command_line(parser, argv)


def read_rows(path: str, limit: int | None) -> Iterator[Row]:
    """Rows of a MindRecord in order: `input_ids` and `labels`, int32 of one length."""
    from mindspore.dataset import MindDataset

    data = MindDataset(mindrecord_files(path), shuffle=False)
    for number, row in enumerate(data.create_dict_iterator(num_epochs=1, output_numpy=True)):
        if number == limit:
            return
        yield row["input_ids"], row["labels"]


class LabelLosses:
    """Losses of a checkpoint at the labels only.

    Args:
        recipe: Resolved predict recipe.
        checkpoint: Weights to load.
        special: Special ids of the tokenizer.
        length: Tokens per row.
        labels: Most labels in a row.
    """

    def __init__(self, recipe: recipes.Recipe, checkpoint: str, special: SpecialTokens, length: int,
                 labels: int) -> None:
        from research_internlm.generation import InferenceModel

        self.model = InferenceModel(recipe, checkpoint, special, length - 1, for_scores=True)
        if self.model.seq_length < length - 1:
            raise ToolkitError(f"rows of {length} tokens need model.model_config.seq_length of at least "
                               f"{length - 1}, the config has {self.model.seq_length}")
        self.labels = labels
        self.ends = list(end_ids(special).values())
        self._cell = _make_cell(self.model.network, self.ends)

    def of(self, rows: Sequence[Row], describe: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Losses in nats.

        Args:
            rows: Token ids and labels at the same index (not shifted).
            describe: Label of the progress bar.

        Returns:
            For each row its labels' losses (n,), and what each end marker would cost there (n, markers).
        """
        from mindspore import Tensor

        size, losses, ends = self.model.batch_size, [], []
        for start in tqdm(range(0, len(rows), size), desc=describe, unit="batch"):
            ids = np.full((size, self.model.seq_length), PAD_ID, np.int32)
            places = np.zeros((size, self.labels), np.int32)
            targets = np.zeros((size, self.labels), np.int32)
            counts = []
            for number, (tokens, labels) in enumerate(rows[start:start + size]):
                ids[number, :len(tokens) - 1] = tokens[:-1]
                at = np.flatnonzero(labels[1:] != IGNORE_ID)  # a label is predicted from the token before
                places[number, :len(at)], targets[number, :len(at)] = at, labels[1:][at]
                counts.append(len(at))
            loss, end = (part.asnumpy() for part in self._cell(Tensor(ids), Tensor(places), Tensor(targets)))
            losses += [loss[number, :count] for number, count in enumerate(counts)]
            ends += [end[number, :count] for number, count in enumerate(counts)]
        return losses, ends


def _make_cell(network: Any, ends: Sequence[int]) -> Any:
    """A cell that computes head and loss at the labels only, since a full head is mostly unused."""
    from mindspore import Tensor, dtype, nn, ops

    class LossAtLabels(nn.Cell):
        """ids (batch, seq), places and targets (batch, k) to losses (batch, k) and (batch, k, ends)."""

        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.model, self.lm_head = network.model, network.lm_head
            self.ends = Tensor(list(ends), dtype.int32)

        def construct(self, input_ids, places, targets):  # noqa: ANN001 (compiled by MindSpore)
            hidden = self.model(input_ids)
            index = ops.tile(ops.expand_dims(places, -1), (1, 1, hidden.shape[-1]))
            at = ops.gather_elements(hidden, 1, index)
            logits = ops.cast(self.lm_head(at), dtype.float32).reshape((*places.shape, -1))
            scores = ops.log_softmax(logits, -1)
            loss = ops.gather_elements(scores, 2, ops.expand_dims(targets, -1))
            return -loss.reshape(places.shape), -ops.gather(scores, self.ends, 2)

    cell = LossAtLabels()
    cell.set_train(False)
    return cell


def audit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the audit.

    Raises:
        ToolkitError: Data, tokenizer, config and checkpoints do not fit together.
    """
    from research_internlm.evaluate import predict_recipe

    recipe = predict_recipe(arguments)
    processor = load_tokenizer(arguments.model_file)
    special = special_tokens(processor)
    length = (read_manifest(arguments.dataset) or {}).get("record_length", 0)
    manifest = check_mindrecord(arguments.dataset, length, "--dataset", arguments.config)
    if manifest.get("packed"):
        raise ToolkitError(f"{arguments.dataset} is packed; audit unpacked rows (convert without --pack)")
    if manifest["tokenizer_sha256"] != sha256_of(arguments.model_file):
        raise ToolkitError(f"{arguments.dataset} was made with another tokenizer than {arguments.model_file}")
    rows = list(read_rows(arguments.dataset, arguments.limit))
    kinds = [row_kinds(labels, processor, special) for _, labels in rows]
    marker, end_kind = own_end(rows, kinds, special)
    result: dict[str, Any] = {"dataset": Path(arguments.dataset).name, "rows": len(rows),
                              "limit": arguments.limit, "prompt_version": manifest["prompt_version"],
                              "end_marker": marker, "end_kind": end_kind}
    for name, checkpoint in (("tuned", arguments.load_checkpoint), ("base", arguments.base)):
        if checkpoint is None:
            continue
        measured = LabelLosses(recipe, checkpoint, special, length, manifest["tokens"]["longest_answer"])
        losses, ends = measured.of(rows, name)
        result[name] = {
            "checkpoint": Path(checkpoint).name, "mean": float(np.concatenate(losses).mean()),
            "kinds": summarize(kinds, losses),
            "end_markers": end_costs(ends, kinds, special),
        }
    result["unlearnt"] = unlearnt(result["tuned"]["kinds"], result["base"]["kinds"]) if arguments.base else []
    return result


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Writes the bar chart: loss by kind, tuned beside base."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    names = [name for name in ("base", "tuned") if name in result]
    kinds = list(result["tuned"]["kinds"])
    for number, name in enumerate(names):
        axes.bar(np.arange(len(kinds)) + (number - (len(names) - 1) / 2) * 0.4,
                 [result[name]["kinds"][kind]["mean"] for kind in kinds], 0.4, label=name)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_ylabel("mean loss, nats a token")
    axes.legend()
    figure.tight_layout()
    with staging(path.parent) as folder:
        figure.savefig(folder / path.name, metadata={"Software": None})
        publish(folder / path.name, path)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    arguments.device_target = None
    if arguments.limit is not None and arguments.limit < 1:
        raise ToolkitError(f"--limit {arguments.limit} audits no row; give 1 or more, or leave it out")
    output = require_absent(arguments.output, arguments.overwrite)
    for path in (arguments.load_checkpoint, arguments.base):
        if path:
            require_file(path, "the checkpoint")
    result = audit(arguments)
    print(table(result))
    draw(result, output.with_suffix(".png"))
    write_json(output, json_ready(result))
    return 0


if __name__ == "__main__":
    run_main(main)
