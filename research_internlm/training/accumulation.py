"""Gradient accumulation in data-parallel mode: a step's rows computed in parts, one update.

MindFormers 1.9.0 sets gradient_accumulation_steps back to 1 in this mode (trainer/base_trainer.py). The rows
of an update are therefore one batch for the Trainer (`runner_config.batch_size`), and only the training cell
sees the parts; schedule, logs and saves are those of the large batch.
"""

from __future__ import annotations

from typing import Any

from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.wrapper import MFTrainOneStepCell
from mindformers.wrapper.wrapper import get_real_models
from mindspore import Tensor, dtype, nn, ops


@MindFormerRegister.register(MindFormerModuleType.WRAPPER)
class AccumulatingTrainOneStepCell(MFTrainOneStepCell):
    """MFTrainOneStepCell whose loss and gradients are sums over parts of the batch.

    A part's loss is the mean over its labels, so parts weigh by their number of labels: the sums are the
    large batch's, with or without packed rows. One part's activations are in memory at a time.

    Args:
        network: The model, whose loss is one scalar.
        optimizer: As for MFTrainOneStepCell.
        micro_batches: Parts; a divisor of runner_config.batch_size.
        settings: MFTrainOneStepCell's own.
    """

    def __init__(self, network: nn.Cell, optimizer: nn.Cell, micro_batches: int = 1, **settings: Any) -> None:
        super().__init__(network, optimizer, **settings)
        self.micro_batches = micro_batches
        config = get_real_models(network).config  # the Trainer wraps the model by the order of its columns
        self.ignored, self.padding = config.ignore_token_id, config.pad_token_id
        self.sum_up = ops.HyperMap()

    def labels_of(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Positions that carry weight in the loss (model/modeling.py, _loss_at_labels)."""
        supervised = ops.logical_and(ops.not_equal(labels[:, 1:], self.ignored),
                                     ops.not_equal(ids[:, :-1], self.padding))
        return ops.ReduceSum()(ops.cast(supervised, dtype.float32))

    def grads_for_legacy(self, scaling_sens: Tensor, *inputs: Tensor) -> tuple[Tensor, Any, Tensor]:
        """Called by MFTrainOneStepCell; loss, scaled gradients, and 1 for what else they are divided by."""
        ids, labels = inputs
        rows = ids.shape[0] // self.micro_batches
        all_labels = self.labels_of(ids, labels)
        loss, grads = self.part(scaling_sens, all_labels, ids[:rows], labels[:rows])
        for number in range(1, self.micro_batches):
            # Behind the part before, so that its activations are free.
            part_ids = ops.depend(ids[number * rows:(number + 1) * rows], grads)
            part_loss, part_grads = self.part(scaling_sens, all_labels, part_ids,
                                              labels[number * rows:(number + 1) * rows])
            loss, grads = loss + part_loss, self.sum_up(ops.add, grads, part_grads)
        return loss, grads, self.grad_scale_factor

    def part(self, scaling_sens: Tensor, all_labels: Tensor, ids: Tensor, labels: Tensor
             ) -> tuple[Tensor, Any]:
        """Share of some rows in loss and scaled gradients."""
        share = self.labels_of(ids, labels) / all_labels
        loss = self.network(ids, labels)
        sens = ops.ones_like(loss) * ops.cast(scaling_sens * share, loss.dtype)
        return loss * ops.cast(share, loss.dtype), self.grad(self.network, self.weights)(ids, labels, sens)
