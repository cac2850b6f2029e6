"""Tunix's DPO trainer and sampler on the workload, each set for speed."""

import sys
import time

import jax
import numpy as np
import optax
from flax import nnx
from tunix.generate import sampler
from tunix.models.llama3 import model
from tunix.sft.dpo import dpo_trainer

from experiments.speed import workload
from experiments.speed.figures import sample_figures, update_figures

BETA, LR = 0.1, 1e-6


class Tokenizer:
    """The methods that Tunix's sampler needs of a tokenizer, on words like 'w17'."""

    def encode(self, text, **_):
        return [int(word[1:]) for word in text.split()]

    def decode(self, tokens, **_):
        return workload.as_text(tokens)

    def bos_id(self):
        return 0  # none is added

    def eos_id(self):
        return 1

    def pad_id(self):
        return workload.PAD


def build(shape: workload.Shape, seed: int):
    """Its Llama of that shape with random weights, each of standard deviation fan_in**-0.5."""
    if shape.qkv_bias:
        sys.exit("Tunix's Llama has no biases: choose another --shape")
    config = model.ModelConfig(
        num_layers=shape.layers,
        vocab_size=shape.vocab,
        embed_dim=shape.width,
        hidden_dim=shape.mlp,
        num_heads=shape.heads,
        head_dim=shape.head_dim,
        num_kv_heads=shape.kv_heads,
        rope_theta=int(shape.rope_theta),
        norm_eps=shape.norm_eps,
        weight_tying=shape.tied,
        remat_config=model.RematConfig.NONE,
    )
    llama = model.Llama3(config, rngs=nnx.Rngs(seed))

    def random(index, weight):
        if weight.ndim < 2:
            return weight
        if weight.shape == (shape.vocab, shape.width):  # the embedding
            fan_in = shape.width
        elif weight.shape[-1] == shape.width:  # products back into the width
            fan_in = np.prod(weight.shape[:-1])
        else:
            fan_in = weight.shape[0]
        key = jax.random.fold_in(jax.random.key(seed), index)
        return jax.random.normal(key, weight.shape) * fan_in**-0.5

    weights, structure = jax.tree.flatten(nnx.state(llama, nnx.Param))
    weights = [random(i, weight) for i, weight in enumerate(weights)]
    nnx.update(llama, jax.tree.unflatten(structure, weights))
    return llama


def tunix_dpo(shape: workload.Shape, options) -> dict:
    """Tunix's DPO trainer. It recomputes the reference's log-probs at each step; there is no other
    way.

    Set for speed: tokens are padded to the data's longest prompt and response, so that one program
    is compiled; no rematerialisation; no progress bar, no metrics in a file, no checkpoints. Its
    DPO trainer has no packing.
    """
    work = workload.pairs(shape, options.pairs * options.steps, options.seed)
    prompt_length = max(len(pair.prompt) for pair in work)
    length = max(max(len(pair.chosen), len(pair.rejected)) for pair in work)
    batches = []
    for i in range(0, len(work), options.pairs):
        part = work[i : i + options.pairs]
        prompts = workload.padded([pair.prompt for pair in part], prompt_length, left=True)
        chosen = workload.padded([pair.chosen for pair in part], length, left=False)
        rejected = workload.padded([pair.rejected for pair in part], length, left=False)
        batches.append(dpo_trainer.TrainingInput(*prompts, *chosen, *rejected))
    marks = []

    def feed():
        for _ in range(1 + options.rounds):  # the first compiles
            marks.append(time.perf_counter())
            yield from batches
        marks.append(time.perf_counter())
        yield from batches[:2]  # as many updates as it keeps in flight

    trainer = dpo_trainer.DPOTrainer(
        build(shape, options.seed),
        build(shape, options.seed),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LR, weight_decay=0.0)),
        dpo_trainer.DPOTrainingConfig(eval_every_n_steps=10**9, beta=BETA),
    )
    trainer.train(feed())
    return update_figures(
        work,
        options.steps,
        np.diff(marks)[1:].tolist(),
        first_round_s=marks[1] - marks[0],
        padded_to=[prompt_length, length],
    )


def tunix_sampler(shape: workload.Shape, options) -> dict:
    """Tunix's sampler: all samples as one batch, each prompt repeated for each of its samples.

    Set for speed: the cache is just as long as needed, top_p is 1 (which skips the sort), and
    neither logits nor log-probs are requested. It takes any number of end tokens. It decodes until
    all samples have ended; what it writes after a sample's end is not counted.
    """
    prompts = workload.prompts(shape, options.prompts, options.seed)
    longest, ends = max(map(len, prompts)), workload.ends(shape)
    cache = sampler.CacheConfig(
        longest + options.max_tokens, shape.layers, shape.kv_heads, shape.head_dim
    )
    sample = sampler.Sampler(build(shape, options.seed), Tokenizer(), cache)
    texts = [workload.as_text(prompt) for prompt in prompts for _ in range(options.samples)]
    produced, rounds = [], []
    for i in range(1 + options.rounds):
        start = time.perf_counter()
        output = sample(
            texts, options.max_tokens, longest, eos_tokens=ends, temperature=1.0, top_p=1.0, seed=i
        )
        rounds.append(time.perf_counter() - start)
        # It returns the tokens before the end token; that one was produced too.
        lengths = [min(len(tokens) + 1, options.max_tokens) for tokens in output.tokens]
        produced.append(sum(lengths))
    return sample_figures(produced[1:], rounds[1:], first_call_s=rounds[0])
