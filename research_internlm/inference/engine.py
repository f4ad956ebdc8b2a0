"""The engine: one network that continues and scores token ids. It knows no tokenizer and no command line.

Prompts come encoded (text_codec.py), never as text: MindFormers' own predict pipeline would tokenise the
chat markers differently from training. An adapter in the checkpoint is merged while loading, so what runs
is the plain model on every device.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from research_internlm import recipes
from research_internlm.checkpoints.model_match import require_weights
from research_internlm.data.tokens import PAD_ID
from research_internlm.inference import kv_quantization
from research_internlm.inference.batching import choose_lengths, make_batches
from research_internlm.inference.kv_quantization import KvQuantization
from research_internlm.inference.rows import RowDecoder
from research_internlm.inference.sampling import Sampling, choose
from research_internlm.inference.scoring import PromptScorer
from research_internlm.model import cpu_patches
from research_internlm.model.device_memory import generation_batch
from research_internlm.recipes.for_mindformers import mindformers_config, set_scratch_log_folder
from research_internlm.shared.errors import ToolkitError

_LENGTH_STEP = 32  # the model's own length is rounded up to it


class Engine:
    """A model that answers prompts; `model_protocol.Model` says what others may ask of it.

    Weights are loaded at the first question. On a CPU one network with a static key-value cache
    (kv_cache.py) answers everything. On Ascend scores need a network without the paged cache, so an
    engine that is asked for both answers and scores holds the weights twice.

    Args:
        recipe: Resolved predict recipe; `max_new_tokens` and `min_new_tokens` of its model_config are those
            of `generate`, and `min_new_tokens` of `stream` too. Without a `runner_config.batch_size` the
            memory decides (model/device_memory.py).
        checkpoint: Base or merged weights, or a full LoRA checkpoint.
        stop_ids: Tokens that end an answer.
        seq_length: Longest prompt and answer together, in tokens; None takes the recipe's.
        kv: Rounds keys and values as a cache of few bits would (kv_quantization.py); on a CPU only.

    Raises:
        ToolkitError: Config, device and checkpoint do not fit together.
    """

    def __init__(self, recipe: Mapping[str, Any], checkpoint: str | Path, stop_ids: Sequence[int],
                 seq_length: int | None = None, kv: KvQuantization | None = None) -> None:
        self._recipe = copy.deepcopy(dict(recipe))
        self._checkpoint, self._kv = checkpoint, kv
        model_config = recipes.model_config(self._recipe)
        self._device = self._recipe["context"]["device_target"]
        if kv:
            kv_quantization.require_simulated(kv, model_config, self._device)
        self.stop_ids = tuple(stop_ids)
        self.max_new_tokens = model_config.get("max_new_tokens", 0)
        self.min_new_tokens = model_config.get("min_new_tokens") or 0
        self.seq_length = min(-(-(seq_length or model_config["seq_length"]) // _LENGTH_STEP) * _LENGTH_STEP,
                              model_config["seq_length"])
        model_config["seq_length"] = self.seq_length
        self.batch_size = ((self._recipe.get("runner_config") or {}).get("batch_size")
                           or generation_batch(self._recipe, self.seq_length))
        if "block_size" in model_config:  # of the paged cache, which holds a whole batch
            blocks = self.batch_size * -(-self.seq_length // model_config["block_size"])
            model_config.setdefault("num_blocks", blocks)
        self._pet_config = model_config.pop("pet_config", None)
        model_config["packed"] = False  # a training run's config may say so, but a prompt is one sample
        self._has_static_cache = cpu_patches.uses_static_cache(model_config, self._device)

    @functools.cached_property
    def network(self) -> Any:
        """MindFormers' network for answers, loaded."""
        return self.score_network if self._has_static_cache else self._build()

    @functools.cached_property
    def score_network(self) -> Any:
        """MindFormers' network for one pass over whole prompts, loaded."""
        # No cache, and flash attention needs one at predict time. is_dynamic without use_past only cuts the
        # causal mask to the batch's length.
        return self._build(use_past=False, is_dynamic=True, use_flash_attention=False)

    def _build(self, **changes: Any) -> Any:
        recipe = copy.deepcopy(self._recipe)
        model_config = recipes.model_config(recipe)
        model_config.update(changes)
        cpu_patches.check_model_config(model_config, self._device)
        network = _build(recipe, self.batch_size, self._checkpoint, self._pet_config)
        if self._kv:
            kv_quantization.install(network, self._kv)
        return network

    def load(self) -> None:
        """Loads the weights for answers now, not at the first question."""
        _ = self.network

    def _static_decoder(self, batch_size: int) -> Any:
        from research_internlm.inference.kv_cache import StaticCacheDecoder

        return StaticCacheDecoder(self.network, batch_size, self.seq_length)

    @functools.cached_property
    def _batch_decoder(self) -> Any:
        return self._static_decoder(self.batch_size)

    @functools.cached_property
    def _stream_decoder(self) -> Any:
        return self._static_decoder(1)

    @functools.cached_property
    def rows(self) -> RowDecoder:
        """`batch_size` answers at once that begin and end at different times; tokens come as logits.

        By the static key-value cache on every device; on an NPU this was never run.

        Raises:
            ToolkitError: The recipe asks for a layer that the static cache does not know.
        """
        from research_internlm.inference.kv_cache import StaticCacheDecoder

        if cpu_patches.has_plain_layers(recipes.model_config(self._recipe)):
            return RowDecoder(StaticCacheDecoder(self.score_network, self.batch_size, self.seq_length),
                              self.batch_size)
        raise ToolkitError("answers of several requests at once need plain layers: remove qkv_concat and "
                           "residual_dtype from the model_config")

    @functools.cached_property
    def prompt_scorer(self) -> PromptScorer:
        """Log-probabilities of all tokens of prompts."""
        return PromptScorer(self.score_network, self.seq_length, self.batch_size)

    @functools.cached_property
    def _scorer(self) -> Any:
        return _make_scorer(self.score_network)

    def generate(self, prompts: Sequence[Sequence[int]], describe: str = "generate") -> list[list[int]]:
        """Greedy continuation of each prompt up to its first stop token.

        Args:
            prompts: Token ids; each fits `seq_length` together with at least one new token.
            describe: Label of the progress bar.

        Returns:
            New token ids of each prompt in order, without the stop token.
        """
        lengths = self._padded_lengths(prompts) if self._has_static_cache else [self.seq_length]
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
        new_tokens = min(self.max_new_tokens, self.seq_length - max(map(len, prompts)))
        if self._has_static_cache:
            return self._batch_decoder.generate(prompts, length, new_tokens, self.stop_ids,
                                                self.min_new_tokens)
        return self._generate_by_mindformers(prompts, new_tokens, do_sample=False)

    def _generate_by_mindformers(self, prompts: list[Sequence[int]], new_tokens: int, **options: Any
                                 ) -> list[list[int]]:
        """New tokens of a whole batch, stop tokens and what follows them too."""
        padded = np.full((len(prompts), max(map(len, prompts))), PAD_ID, np.int32)
        for row, prompt in enumerate(prompts):
            padded[row, :len(prompt)] = prompt
        if self.min_new_tokens:
            options["min_new_tokens"] = self.min_new_tokens
        outputs = self.network.generate(input_ids=padded, max_new_tokens=new_tokens, pad_token_id=PAD_ID,
                                        eos_token_id=list(self.stop_ids), **options)
        return [list(map(int, output[len(prompt):])) for output, prompt in zip(outputs, prompts, strict=True)]

    def _until_stop(self, ids: list[int]) -> list[int]:
        ends = [ids.index(stop) for stop in self.stop_ids if stop in ids]
        return ids[:min(ends)] if ends else ids

    def stream(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Continuation of one prompt, token by token; greedy, the tokens are those of `generate`.

        With the static cache each token is yielded as soon as it is chosen, and one stream must end before
        the next is started. Without it (on Ascend) MindFormers writes the whole answer first, with its own
        sampler, and its tokens are yielded then; that way was never run on an NPU.

        Args:
            ids: Token ids of the prompt, at least one, and fewer than `seq_length`.
            sampling: How tokens are chosen, and how many at most.

        Yields:
            New token ids up to the first stop token, which is not among them, `max_new_tokens` or the end
            of `seq_length`.

        Raises:
            ToolkitError: The prompt is empty or leaves no room for an answer, or a CPU is to sample without
                the static cache.
        """
        if not 0 < len(ids) < self.seq_length:
            raise ToolkitError(f"a prompt of {len(ids)} tokens cannot be answered: it needs at least 1 and "
                               f"fewer than model.model_config.seq_length ({self.seq_length})")
        new_tokens = min(sampling.max_new_tokens, self.seq_length - len(ids))
        if self._has_static_cache:
            yield from self._stream_by_steps(list(ids), sampling, new_tokens)
            return
        if self._device == "CPU" and sampling.temperature > 0:
            raise ToolkitError(f"temperature is {sampling.temperature}, but on a CPU MindFormers' own "
                               "generation is greedy only (its sampler has no CPU kernels): ask with "
                               "temperature 0, or remove repetition_penalty, qkv_concat and residual_dtype "
                               "from the model_config")
        options = {"do_sample": sampling.temperature > 0, "top_p": sampling.top_p, "top_k": sampling.top_k,
                   "repetition_penalty": sampling.repetition_penalty, "seed": sampling.seed,
                   **({"temperature": sampling.temperature} if sampling.temperature else {})}
        # The compiled graph has a fixed batch, as in `generate`.
        rows = self._generate_by_mindformers([list(ids)] * self.batch_size, new_tokens, **options)
        yield from self._until_stop(rows[0])

    def _stream_by_steps(self, seen: list[int], sampling: Sampling, new_tokens: int) -> Iterator[int]:
        # Prompts are padded to a few doubled lengths, each compiled once.
        length = _LENGTH_STEP
        while length < len(seen):
            length *= 2
        random = np.random.default_rng(sampling.seed)
        steps = self._stream_decoder.steps([seen], min(length, self.seq_length))
        logits = next(steps)[0]
        for step in range(new_tokens):
            if step < self.min_new_tokens:
                logits[list(self.stop_ids)] = -np.inf
            token = choose(logits, seen, sampling, random)
            if token in self.stop_ids:
                return
            yield token
            seen.append(token)
            if step < new_tokens - 1:
                logits = steps.send(np.array([token]))[0]

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

    def token_losses(self, prompts: Sequence[Sequence[int]], describe: str = "loss") -> list[np.ndarray]:
        """Losses of the tokens of prompts.

        Args:
            prompts: Token ids, at least one each and at most `seq_length`.
            describe: Label of the progress bar.

        Returns:
            For each prompt of n tokens the losses (n - 1,) of those after the first, in nats, float32.
        """
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        losses: list[np.ndarray] = [np.zeros(0, np.float32)] * len(prompts)
        for start in tqdm(range(0, len(order), self.batch_size), desc=describe, unit="batch",
                          disable=len(order) <= self.batch_size):
            batch = order[start:start + self.batch_size]
            scores = self.prompt_scorer.score([prompts[index] for index in batch], 1)
            for index, score in zip(batch, scores, strict=True):
                losses[index] = -score.logprobs
        return losses


def _build(recipe: Mapping[str, Any], batch_size: int, checkpoint: str | Path, pet_config: Any) -> Any:
    """Builds the plain network on the recipe's device and loads its weights."""
    require_weights(checkpoint, recipes.model_config(recipe))
    set_scratch_log_folder()
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
