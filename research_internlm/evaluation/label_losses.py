"""Mean loss of a checkpoint by category of label token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from research_internlm import recipes
from research_internlm.checkpoints.model_match import require_weights
from research_internlm.data.label_categories import end_ids
from research_internlm.data.manifest import MindRecordManifest, read_mindrecord_manifest
from research_internlm.data.tokens import IGNORE_ID, PAD_ID, SpecialTokens
from research_internlm.evaluation.audit_findings import (
    Row,
    end_costs,
    high_loss_labels,
    own_end,
    row_kinds,
    summarize,
)
from research_internlm.inference.engine import Engine
from research_internlm.inference.text_codec import TextCodec
from research_internlm.recipes.data_check import check_mindrecord, mindrecord_files, require_unchanged
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of


def audit(recipe: recipes.Recipe, config: str, dataset: str, model_file: str, checkpoint: str,
          base: str | None = None, limit: int | None = None) -> dict[str, Any]:
    """Losses of a checkpoint by kind of label token, beside those of its base.

    Args:
        recipe: Resolved predict recipe.
        config: Its file, for messages.
        dataset: Unpacked MindRecord.
        model_file: tokenizer.model of the weights.
        checkpoint: The tuned weights.
        base: Those that the run started from; None compares nothing.
        limit: Only so many rows, the first ones.

    Returns:
        The result, as audit.py writes it.

    Raises:
        ToolkitError: Data, tokenizer, config and checkpoints do not fit together.
    """
    for weights, what in ((checkpoint, "--load_checkpoint"), (base, "--base")):
        if weights is not None:
            require_weights(weights, recipes.model_config(recipe), what)
    codec = TextCodec(model_file, recipes.model_config(recipe)["vocab_size"])
    manifest = _check_data(dataset, model_file, config)
    rows = list(read_rows(dataset, limit))
    kinds = [row_kinds(labels, codec.processor, codec.special) for _, labels in rows]
    marker, end_kind = own_end(rows, kinds, codec.special)
    result: dict[str, Any] = {"dataset": Path(dataset).name, "rows": len(rows), "limit": limit,
                              "prompt_version": manifest.prompt_version, "end_marker": marker,
                              "end_kind": end_kind}
    for name, weights in (("tuned", checkpoint), ("base", base)):
        if weights is None:
            continue
        measured = LabelLosses(recipe, weights, codec.special, manifest.record_length,
                               manifest.tokens.longest_answer)
        losses, ends = measured.of(rows, name)
        result[name] = {"checkpoint": Path(weights).name, "mean": float(np.concatenate(losses).mean()),
                        "kinds": summarize(kinds, losses),
                        "end_markers": end_costs(ends, kinds, codec.special)}
    result["unlearnt"] = high_loss_labels(result["tuned"]["kinds"], result["base"]["kinds"]) if base else []
    return result


def _check_data(dataset: str, model_file: str, config: str) -> MindRecordManifest:
    """The manifest of rows that can be audited with this tokenizer."""
    found = read_mindrecord_manifest(dataset)
    length = found.record_length if found else 0
    manifest = check_mindrecord(dataset, length, "--dataset", config)
    if manifest.packed:
        raise ToolkitError(f"{dataset} is packed; audit unpacked rows (convert without --pack)")
    if manifest.tokenizer_sha256 != sha256_of(model_file):
        raise ToolkitError(f"{dataset} was made with another tokenizer than {model_file}")
    require_unchanged(dataset, "--dataset")
    return manifest


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
        self.engine = Engine(recipe, checkpoint, special.stop_ids, length - 1)
        if self.engine.seq_length < length - 1:
            raise ToolkitError(f"rows of {length} tokens need model.model_config.seq_length of at least "
                               f"{length - 1}, the config has {self.engine.seq_length}")
        self.labels = labels
        self.ends = list(end_ids(special).values())
        self._cell = _make_cell(self.engine.score_network, self.ends)

    def of(self, rows: Sequence[Row], describe: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Losses in nats.

        Args:
            rows: Token ids and labels at the same index (not shifted).
            describe: Label of the progress bar.

        Returns:
            For each row its labels' losses (n,), and what each end marker would cost there (n, markers).
        """
        from mindspore import Tensor

        size, losses, ends = self.engine.batch_size, [], []
        for start in tqdm(range(0, len(rows), size), desc=describe, unit="batch"):
            ids = np.full((size, self.engine.seq_length), PAD_ID, np.int32)
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
