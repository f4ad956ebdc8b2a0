"""Inference with a tuned InternLM: greedy generation and next-token scores, from token ids to token ids.

Prompts come encoded from research_internlm.prompts, never as text: MindFormers' own predict pipeline
would tokenise the chat markers differently from training. An adapter in the checkpoint is merged while
loading, so what runs is the plain model on every device.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from research_internlm import recipes
from research_internlm.data.chat_template import encode, render_chat
from research_internlm.data.tokens import PAD_ID, SpecialTokens, load_tokenizer, special_tokens
from research_internlm.inference.batching import choose_lengths, make_batches
from research_internlm.model import cpu_patches
from research_internlm.recipes.for_mindformers import mindformers_config, set_log_folder
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, write_json

_LENGTH_STEP = 32  # the model's own length is rounded up to it


class InferenceModel:
    """A loaded model that answers prompts.

    Args:
        recipe: Resolved predict recipe.
        checkpoint: Base or merged weights, or a full LoRA checkpoint.
        special: Special ids of the tokenizer the weights belong to.
        seq_length: Longest prompt and answer together, in tokens; None takes the recipe's.
        for_scores: Build for `next_token_scores` (one static forward pass) instead of `generate`.

    Raises:
        ToolkitError: Config, device, checkpoint and tokenizer do not fit together.
    """

    def __init__(self, recipe: Mapping[str, Any], checkpoint: str | Path, special: SpecialTokens,
                 seq_length: int | None = None, for_scores: bool = False) -> None:
        recipe = copy.deepcopy(dict(recipe))
        model_config = recipes.model_config(recipe)
        if special.vocab_size != model_config["vocab_size"]:
            raise ToolkitError(f"the tokenizer has {special.vocab_size} pieces, but the model has vocab_size "
                               f"{model_config['vocab_size']}; use the tokenizer.model of these weights")
        self.special = special
        self.batch_size = recipe["runner_config"]["batch_size"]
        self.max_new_tokens = model_config.get("max_new_tokens", 0)
        self.min_new_tokens = model_config.get("min_new_tokens")
        self.seq_length = min(-(-(seq_length or model_config["seq_length"]) // _LENGTH_STEP) * _LENGTH_STEP,
                              model_config["seq_length"])
        model_config["seq_length"] = self.seq_length
        pet_config = model_config.pop("pet_config", None)
        model_config["packed"] = False  # a training run's config may say so, but a prompt is one sample
        if for_scores:
            # One pass over the whole prompt: no cache, and flash attention needs one at predict time.
            # is_dynamic without use_past only cuts the causal mask to the batch's length.
            model_config.update(use_past=False, is_dynamic=True, use_flash_attention=False)
        cpu_patches.check_model_config(model_config, recipe["context"]["device_target"])
        self.network = _build(recipe, self.batch_size, checkpoint, pet_config)
        self._scorer = _make_scorer(self.network) if for_scores else None
        self._decoder = None
        if not for_scores and cpu_patches.uses_static_cache(model_config, recipe["context"]["device_target"]):
            from research_internlm.inference.kv_cache import StaticCacheDecoder

            self._decoder = StaticCacheDecoder(self.network, self.batch_size, self.seq_length)

    def generate(self, prompts: Sequence[Sequence[int]], describe: str = "generate") -> list[list[int]]:
        """Greedy continuation of each prompt up to its first stop token.

        Args:
            prompts: Token ids; each fits `seq_length` together with at least one new token.
            describe: Label of the progress bar.

        Returns:
            New token ids of each prompt in order, without the stop token.
        """
        lengths = self._padded_lengths(prompts) if self._decoder else [self.seq_length]
        batches = make_batches(list(map(len, prompts)), dict.fromkeys(lengths, self.batch_size))
        answers: list[list[int]] = [[] for _ in prompts]
        for length, batch in tqdm(batches, desc=describe, unit="batch", disable=len(batches) < 2):
            # The compiled graph has a fixed batch: the last one is filled up with its own last prompt.
            rows = batch + [batch[-1]] * (self.batch_size - len(batch))
            for index, ids in zip(batch, self._generate_batch([prompts[i] for i in rows], length),
                                  strict=False):
                answers[index] = self._until_stop(ids)
        return answers

    def _padded_lengths(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        return choose_lengths(list(map(len, prompts)), self.seq_length, self.batch_size * self.seq_length)

    def _generate_batch(self, prompts: list[Sequence[int]], length: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        new_tokens = min(self.max_new_tokens, self.seq_length - longest)
        if self._decoder:
            return self._decoder.generate(prompts, length, new_tokens, self.special.stop_ids,
                                          self.min_new_tokens or 0)
        padded = np.full((len(prompts), longest), PAD_ID, np.int32)
        for row, prompt in enumerate(prompts):
            padded[row, :len(prompt)] = prompt
        options = {} if self.min_new_tokens is None else {"min_new_tokens": self.min_new_tokens}
        outputs = self.network.generate(
            input_ids=padded, do_sample=False, max_new_tokens=new_tokens,
            eos_token_id=list(self.special.stop_ids), pad_token_id=PAD_ID, **options)
        return [list(map(int, output[len(prompt):])) for output, prompt in zip(outputs, prompts, strict=True)]

    def _until_stop(self, ids: list[int]) -> list[int]:
        ends = [ids.index(stop) for stop in self.special.stop_ids if stop in ids]
        return ids[:min(ends)] if ends else ids

    def next_token_scores(self, prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]],
                          describe: str = "score") -> np.ndarray:
        """Logits of some tokens to follow each prompt, in one forward pass per batch.

        Args:
            prompts: Token ids of length at most `seq_length`.
            candidates: For each prompt the tokens asked about, k ids.
            describe: Label of the progress bar.

        Returns:
            Float32 logits of shape (number of prompts, k).
        """
        from mindspore import Tensor

        # A batch of any length holds as many tokens as `batch_size` of the longest.
        budget = self.batch_size * self.seq_length
        rows = {length: budget // length for length in self._padded_lengths(prompts)}
        batches = make_batches(list(map(len, prompts)), rows)
        asked = np.array(candidates, np.int32)
        scores = np.empty(asked.shape, np.float32)
        for length, batch in tqdm(batches, desc=describe, unit="batch", disable=len(batches) < 2):
            ids = np.full((rows[length], length), PAD_ID, np.int32)
            last = np.zeros(rows[length], np.int32)
            wanted = np.zeros((rows[length], asked.shape[1]), np.int32)
            wanted[:len(batch)] = asked[batch]
            for row, index in enumerate(batch):
                ids[row, :len(prompts[index])] = prompts[index]
                last[row] = len(prompts[index]) - 1
            scores[batch] = self._scorer(Tensor(ids), Tensor(last), Tensor(wanted)).asnumpy()[:len(batch)]
        return scores


def _build(recipe: Mapping[str, Any], batch_size: int, checkpoint: str | Path, pet_config: Any) -> Any:
    """Builds the plain network on the recipe's device and loads its weights."""
    set_log_folder(recipe)
    cpu_patches.adapt(recipe["context"]["device_target"])
    from mindformers import build_context
    from mindformers.models.build_model import build_network

    from research_internlm.inference.loading import load_into
    from research_internlm.model import modeling  # noqa: F401 (registers the classes)

    config = mindformers_config(recipe)
    build_context(config)
    config.model.model_config.batch_size = batch_size
    network = build_network(config.model)
    load_into(network, checkpoint, pet_config)
    network.set_train(False)
    return network


def _make_scorer(network: Any) -> Any:
    """A cell that computes the head at one position per row and keeps the scores asked for."""
    from mindspore import dtype, nn, ops

    class NextTokenScorer(nn.Cell):
        """(batch, length) ids, (batch,) last positions, (batch, k) tokens to (batch, k) float32 logits."""

        def __init__(self, network: nn.Cell) -> None:
            super().__init__(auto_prefix=False)
            self.model = network.model
            self.lm_head = network.lm_head

        def construct(self, input_ids, last, candidates):  # noqa: ANN001 (compiled by MindSpore)
            hidden = self.model(input_ids)
            rows = ops.arange(0, input_ids.shape[0])
            at_last = ops.gather_nd(hidden, ops.stack((rows, last.astype(rows.dtype)), axis=1))
            logits = ops.cast(self.lm_head(at_last), dtype.float32)
            return ops.gather_elements(logits, 1, candidates)

    scorer = NextTokenScorer(network)
    scorer.set_train(False)
    return scorer


def predict(recipe: Mapping[str, Any], data: str | None, model_file: str | None) -> None:
    """run_internlm's predict: answers one question or a file of them.

    Writes predictions.json into the output folder and prints each answer.

    Raises:
        ToolkitError: Data, tokenizer or checkpoint are missing, or a prompt leaves no room to answer.
    """
    if not data or not model_file or not recipe.get("load_checkpoint"):
        raise ToolkitError("predict needs --predict_data (a question or a file), --model_file "
                           "(tokenizer.model) and --load_checkpoint")
    processor = load_tokenizer(model_file)
    special = special_tokens(processor)
    questions = _questions(data)
    prompts = [encode(render_chat(instruction, text, family=special.family), processor, special)[0]
               for instruction, text in questions]
    limit = recipes.model_config(recipe)["seq_length"]
    too_long = [str(i) for i, prompt in enumerate(prompts) if len(prompt) >= limit]
    if too_long:
        raise ToolkitError(f"question(s) {', '.join(too_long)} leave no room for an answer in seq_length "
                           f"{limit}")
    model = InferenceModel(recipe, recipe["load_checkpoint"], special)
    answers = [processor.decode(ids) for ids in model.generate(prompts)]
    for (instruction, text), answer in zip(questions, answers, strict=True):
        print(f"> {instruction}" + (f"\n{text}" if text else "") + f"\n{answer}\n")
    write_json(Path(recipe["output_dir"]) / "predictions.json", [
        {"instruction": instruction, "input": text, "prediction": answer}
        for (instruction, text), answer in zip(questions, answers, strict=True)])


def _questions(data: str) -> list[tuple[str, str]]:
    """(instruction, input) pairs of --predict_data."""
    path = Path(data)
    if path.suffix == ".json":
        return [(item["instruction"], item.get("input", "")) for item in read_json(path, "--predict_data")]
    if path.is_file():
        return [(line, "") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(data, "")]
