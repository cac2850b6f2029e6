"""Times updates and sampling through what a training run calls, on random weights."""

import contextlib
import functools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.speed import figures, workload
from selfrew.engine import generate, trainer
from selfrew.engine.generate import memory_plan
from selfrew.mesh import sharding
from selfrew.models import decoder, language_model
from selfrew.models.config import ModelConfig, Rope
from selfrew.shelves import losses, optimizers
from selfrew.types import Example, Response, State, user_prompt

COMPILED = '/jax/core/compile/backend_compile_duration'


class Text:
    """The tokenizer: a word is the number of a token."""

    def __init__(self, shape: workload.Shape):
        self.pad, self.stop_tokens = workload.PAD, workload.ends(shape)

    def prompt_tokens(self, prompt):
        return self.encode(prompt.text)

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, tokens):
        return _as_words(tokens)


def _as_words(tokens) -> str:
    return ' '.join(map(str, tokens))


def build(shape: workload.Shape, dtype: str, seed: int, **fields):
    """(lm, params) with random weights; computed and kept in `dtype`. fields: of the module."""
    mesh = sharding.make_mesh()
    config = ModelConfig(
        vocab=shape.vocab,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        mlp=shape.mlp,
        max_length=workload.POSITIONS,
        tied=shape.tied,
        qkv_bias=shape.qkv_bias,
        rope=Rope(shape.rope_theta),
        norm_eps=shape.norm_eps,
    )
    module = decoder.make_module(config, dtype, mesh=mesh, **fields)
    text: Any = Text(shape)
    lm = language_model.Lm(module, text, mesh, param_dtype=dtype)

    def init(key):
        params = decoder.init_params(module, key)
        return jax.tree.map(lambda x, like: x.astype(like.dtype), params, lm.abstract_params())

    return lm, jax.jit(init, out_shardings=lm.param_shardings())(jax.random.key(seed))


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
    """A list of the seconds that each program compiled inside takes."""
    compiled = []

    def watch(event: str, duration_secs: float, **_):
        if event == COMPILED:
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(watch)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(watch)


def examples(pairs: list[workload.Pair]) -> list[Example]:
    """Pairs as a round's examples; their responses are given as the tokens that were sampled."""
    pair_examples = []
    for i, pair in enumerate(pairs):
        chosen = Response(_as_words(pair.chosen), pair.chosen)
        rejected = Response(_as_words(pair.rejected), pair.rejected)
        prompt = user_prompt(f'pair/{i}', _as_words(pair.prompt))
        pair_examples.append(Example(prompt, (chosen, rejected)))
    return pair_examples


def time_update(lm, params, shape: workload.Shape, options) -> dict:
    """Times DPO updates with AdamW; a round is one `trainer.train` of options.steps updates.

    Consumes `params`. Two rounds come before the timed ones: the first compiles; the second, on
    other pairs, shows what a run's later rounds would compile again.
    """
    loss, key = functools.partial(losses.dpo, beta=0.1), jax.random.key(options.seed)
    row_length = {} if options.row_length is None else {'row_length': options.row_length}
    count = options.pairs * options.steps
    pairs = workload.pairs(shape, count, options.seed)
    other_pairs = workload.pairs(shape, count, options.seed + 1)
    state = State(params, None, 0, 0)

    def run_round(state, pairs):
        start = time.perf_counter()
        state, totals = trainer.train(
            lm,
            state,
            examples(pairs),
            key,
            loss,
            lambda step, metrics: None,
            optimizer=optimizers.adamw,
            lr=1e-6,
            batch=options.pairs,
            **row_length,
        )
        jax.block_until_ready(state.params)
        if totals['dropped']:
            raise SystemExit(f'{totals["dropped"]} pairs do not fit into a row; raise --row_length')
        return state, time.perf_counter() - start

    with compilations() as first:
        state, _ = run_round(state, pairs)
    with compilations() as second:
        state, _ = run_round(state, other_pairs)
    rounds = []
    with compilations() as timed:
        for _ in range(options.rounds):
            state, seconds = run_round(state, pairs)
            rounds.append(seconds)
    seconds, flops = statistics.median(rounds), workload.update_flops(shape, pairs)
    return {
        'tokens_per_s': workload.real_tokens(pairs) / seconds,
        'step_s': seconds / options.steps,
        'step_s_best': min(rounds) / options.steps,
        'useful_gflop': flops / options.steps / 1e9,
        'useful_gflops': flops / seconds / 1e9,
        'compiles': len(first),
        'compiles_other_pairs': len(second),
        'compiles_timed': len(timed),
        'compile_s': sum(first),
        'rounds_s': rounds,
    }


def time_sample(lm, params, shape: workload.Shape, options) -> dict:
    """Times sampling; a round is one `generate.generate` for all prompts and samples.

    Two rounds come before the timed ones: the first compiles; the second has other prompts. Timed
    rounds draw new samples of the same prompts.
    """
    samples = options.samples

    def run_round(number, prompts):
        """(seconds, tokens of each sample of each prompt)"""
        ids = [f'prompt/{k}' for k in range(len(prompts)) for _ in range(samples)]
        key = jax.random.key(options.seed + number)
        keys = generate.request_keys(key, ids, list(range(samples)) * len(prompts))
        requests = [list(prompt) for prompt in prompts for _ in range(samples)]
        start = time.perf_counter()
        responses = generate.generate(
            lm, params, requests, keys, max_tokens=options.max_tokens, slots=options.slots
        )
        seconds = time.perf_counter() - start
        lengths = [len(response.tokens) for response in responses]
        return seconds, [lengths[i : i + samples] for i in range(0, len(lengths), samples)]

    prompts = workload.prompts(shape, options.prompts, options.seed)
    with compilations() as first:
        run_round(0, prompts)
    with compilations() as second:
        run_round(0, workload.prompts(shape, options.prompts, options.seed + 1))
    with compilations() as timed:
        rounds = [run_round(1 + i, prompts) for i in range(options.rounds)]
    tokens = [sum(map(sum, lengths)) for _, lengths in rounds]
    rates = work_rates(lm, shape, options, prompts, rounds)
    return figures.sample_figures(tokens, [seconds for seconds, _ in rounds], **rates) | {
        'compiles': len(first),
        'compiles_other_prompts': len(second),
        'compiles_timed': len(timed),
        'compile_s': sum(first),
    }


def work_rates(lm, shape: workload.Shape, options, prompts: list, rounds: list) -> dict:
    """Useful FLOPs and bytes read a second, the medians of timed rounds of sampling, each (seconds,
    tokens of each sample).
    """
    prompt_lengths, flops, read = [len(prompt) for prompt in prompts], [], []
    requests = [length for length in prompt_lengths for _ in range(options.samples)]
    limits = [options.max_tokens] * len(requests)
    slots = options.slots or memory_plan.default_slots(lm, requests, limits)
    width = jnp.dtype(options.dtype).itemsize
    for seconds, lengths in rounds:
        flops.append(workload.sample_flops(shape, prompt_lengths, lengths) / seconds)
        touched = workload.sample_bytes(shape, prompt_lengths, lengths, slots, width)
        read.append(touched / seconds)
    return {
        'useful_gflops': statistics.median(flops) / 1e9,
        'read_gb_per_s': statistics.median(read) / 1e9,
    }
