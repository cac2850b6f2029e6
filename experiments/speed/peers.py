"""How fast others are on the same workload: Tunix's DPO trainer and sampler, TRL's DPO trainer,
transformers' generate.

    python -m experiments.speed.peers --json=peers.json --only=tunix_dpo,tunix_sampler

On the CPU, in float32. Each runs in a process of its own, so that its peak memory is its own, and
needs nothing of selfrew: run it in an environment that has the peer. One that is not installed is
left out. See the README for how the environments were made and for what else was tried.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from experiments.speed import workload

BETA, LR = 0.1, 1e-6
NEEDS = {
    'tunix_dpo': ('tunix', 'pip install google-tunix'),
    'tunix_sampler': ('tunix', 'pip install google-tunix'),
    'trl_dpo': ('trl', 'pip install trl and a CPU build of torch'),
    'transformers_generate': ('torch', 'pip install transformers and a CPU build of torch'),
}
PACKAGES = (
    'google-tunix',
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'trl',
    'transformers',
    'torch',
    'accelerate',
    'numpy',
)


def words(tokens) -> str:
    """Tokens as text, one word each: what a peer's trainer or sampler tokenises again."""
    return ' '.join(f'w{t}' for t in tokens)


def update_row(work, given, rounds: list[float], **more) -> dict:
    """A trainer's figures from the seconds of each round; a round is given.steps updates on all of
    `work`.
    """
    seconds = statistics.median(rounds)
    real = workload.real_tokens(work)
    return {
        'tokens_per_s': real / seconds,
        'tokens_per_s_best': real / min(rounds),
        'step_s': seconds / given.steps,
        'rounds_s': rounds,
        **more,
    }


def sample_row(made: list[int], rounds: list[float], **more) -> dict:
    """A sampler's figures from the real tokens and the seconds of each call."""
    rates = [n / s for n, s in zip(made, rounds)]
    return {
        'tokens_per_s': statistics.median(rates),
        'tokens_per_s_best': max(rates),
        'tokens': made,
        'rounds_s': rounds,
        **more,
    }


# --- Tunix ------------------------------------------------------------------------------------------------------------


class Numbers:
    """The methods that Tunix's sampler wants of a tokenizer, on words like 'w17'."""

    def encode(self, text, **_):
        return [int(word[1:]) for word in text.split()]

    def decode(self, tokens, **_):
        return words(tokens)

    def bos_id(self):
        return 0  # none is added

    def eos_id(self):
        return 1

    def pad_id(self):
        return workload.PAD


def tunix_model(shape: workload.Shape, seed: int):
    """Its Llama of that shape with random weights, each of standard deviation fan_in**-0.5."""
    import jax
    from flax import nnx
    from tunix.models.llama3 import model

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

    def fresh(i, x):
        if x.ndim < 2:
            return x
        into = (
            np.prod(x.shape[:-1]) if x.shape[-1] == shape.width else x.shape[0]
        )  # products back into the width
        into = shape.width if x.shape == (shape.vocab, shape.width) else into  # the embedding
        return jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), x.shape) * into**-0.5

    leaves, structure = jax.tree.flatten(nnx.state(llama, nnx.Param))
    nnx.update(llama, jax.tree.unflatten(structure, [fresh(i, x) for i, x in enumerate(leaves)]))
    return llama


def padded(rows, length: int, left: bool):
    """(tokens, mask), both [rows, length] int32, padded on the left or on the right."""
    tokens, mask = (
        np.full((len(rows), length), workload.PAD, np.int32),
        np.zeros((len(rows), length), np.int32),
    )
    for i, row in enumerate(rows):
        here = slice(length - len(row), None) if left else slice(0, len(row))
        tokens[i, here], mask[i, here] = row, 1
    return tokens, mask


def tunix_dpo(shape, given) -> dict:
    """Tunix's DPO trainer. It recomputes the reference's log-probabilities at each step; there is
    no other way.

    Set for speed: tokens go in padded to the data's longest prompt and response, so that one
    program is compiled; no rematerialisation; no progress bar, no metrics to a file, no
    checkpoints. Pads whatever it is told to: there is no packing in its DPO trainer.
    """
    import optax
    from tunix.sft.dpo import dpo_trainer

    work = workload.pairs(shape, given.pairs * given.steps, given.seed)
    prompt, response = (
        max(len(p.prompt) for p in work),
        max(max(len(p.chosen), len(p.rejected)) for p in work),
    )
    batches = []
    for i in range(0, len(work), given.pairs):
        part = work[i : i + given.pairs]
        prompts, chosen, rejected = (
            padded([p[k] for p in part], (prompt, response, response)[k], left=k == 0)
            for k in range(3)
        )
        batches.append(dpo_trainer.TrainingInput(*prompts, *chosen, *rejected))
    marks = []

    def feed():
        for _ in range(1 + given.rounds):  # the first compiles
            marks.append(time.perf_counter())
            yield from batches
        marks.append(time.perf_counter())
        yield from batches[:2]  # as many updates as it lets be under way

    trainer = dpo_trainer.DPOTrainer(
        tunix_model(shape, given.seed),
        tunix_model(shape, given.seed),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LR, weight_decay=0.0)),
        dpo_trainer.DPOTrainingConfig(eval_every_n_steps=10**9, beta=BETA),
    )
    trainer.train(feed())
    return update_row(
        work,
        given,
        np.diff(marks)[1:].tolist(),
        first_round_s=marks[1] - marks[0],
        padded_to=[prompt, response],
    )


def tunix_sampler(shape, given) -> dict:
    """Tunix's sampler: all samples as one batch, each prompt written out once for each of its
    samples.

    Set for speed: the cache is just as long as needed, top_p is 1 (which skips the sort), neither
    logits nor log-probabilities are asked for. It takes any number of end tokens. It decodes until
    all samples have ended; what it writes after a sample's end is not counted.
    """
    from tunix.generate import sampler

    prompts = workload.prompts(shape, given.prompts, given.seed)
    longest, ends = max(map(len, prompts)), workload.ends(shape)
    llama = tunix_model(shape, given.seed)
    sample = sampler.Sampler(
        llama,
        Numbers(),
        sampler.CacheConfig(
            longest + given.max_tokens, shape.layers, shape.kv_heads, shape.head_dim
        ),
    )
    texts = [words(p) for p in prompts for _ in range(given.samples)]
    made, rounds = [], []
    for i in range(1 + given.rounds):
        start = time.perf_counter()
        out = sample(
            texts, given.max_tokens, longest, eos_tokens=ends, temperature=1.0, top_p=1.0, seed=i
        )
        rounds.append(time.perf_counter() - start)
        # It returns what stands before the end token; that one was produced too.
        made.append(sum(min(len(t) + 1, given.max_tokens) for t in out.tokens))
    return sample_row(made[1:], rounds[1:], first_call_s=rounds[0])


# --- torch ------------------------------------------------------------------------------------------------------------


def torch_model(shape: workload.Shape, seed: int):
    """transformers' Llama, or Qwen2 where there are biases, with random weights of standard
    deviation fan_in**-0.5.
    """
    import torch
    import transformers

    kind = transformers.Qwen2Config if shape.qkv_bias else transformers.LlamaConfig
    config = kind(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=workload.POSITIONS,
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=shape.tied,
        rope_parameters={'rope_type': 'default', 'rope_theta': shape.rope_theta},
        bos_token_id=None,
        eos_token_id=list(workload.ends(shape)),
        pad_token_id=workload.PAD,
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation='sdpa', dtype=torch.float32
    )
    with torch.no_grad():
        for x in model.parameters():
            if x.ndim == 2:
                x.normal_(std=x.shape[1] ** -0.5)
    return model


def trl_dpo(shape, given) -> dict:
    """TRL's DPO trainer.

    Set for speed: float32 as it is (no bf16 autocast), no gradient checkpointing, no logging, the
    fused AdamW, sdpa attention, and the reference's log-probabilities computed once before
    training, whose time is added. Its `padding_free` is switched off in this version; batches are
    padded to their own longest sequence.
    """
    import datasets
    import transformers
    import trl
    from tokenizers import Tokenizer, models

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    work = workload.pairs(shape, given.pairs * given.steps, given.seed)
    rows = [{f'{name}_ids': list(tokens) for name, tokens in p._asdict().items()} for p in work]
    reference, epochs = [], []

    class Tokenised(trl.DPOTrainer):
        """Takes tokens, not text, and times the reference's batches."""

        def _prepare_dataset(self, dataset, *_):
            return dataset

        def compute_ref_log_probs(self, *args):
            start = time.perf_counter()
            out = super().compute_ref_log_probs(*args)
            reference.append(time.perf_counter() - start)
            return out

    class Clock(transformers.TrainerCallback):
        def on_epoch_begin(self, *_, **__):
            epochs.append(-time.perf_counter())

        def on_epoch_end(self, *_, **__):
            epochs[-1] += time.perf_counter()

    special = Tokenizer(
        models.WordLevel(
            {'<pad>': workload.PAD, '<end>': workload.ends(shape)[0]}, unk_token='<pad>'
        )
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=special, pad_token='<pad>', eos_token='<end>', padding_side='left'
    )
    with tempfile.TemporaryDirectory() as folder:
        config = trl.DPOConfig(
            folder,
            per_device_train_batch_size=given.pairs,
            num_train_epochs=1 + given.rounds,
            learning_rate=LR,
            lr_scheduler_type='constant',
            beta=BETA,
            max_grad_norm=1.0,
            weight_decay=0.0,
            max_length=None,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            optim='adamw_torch_fused',
            precompute_ref_log_probs=True,
            logging_strategy='no',
            save_strategy='no',
            report_to='none',
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=given.seed,
            **given.trl,
        )
        model = torch_model(shape, given.seed)
        data = datasets.Dataset.from_list(rows)
        Tokenised(
            model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()]
        ).train()
    once = statistics.median(reference) * given.steps
    return update_row(
        work, given, [once + s for s in epochs[1:]], reference_s=once, first_round_s=epochs[0]
    )


def transformers_generate(shape, given) -> dict:
    """transformers' generate: prompts padded on the left, samples by num_return_sequences, all as
    one batch.

    Set for speed: sdpa attention, the cache that grows, no top-k or top-p. It takes any number of
    end tokens. It decodes until all samples have ended; the padding that it writes after a sample's
    end is not counted.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    prompts, stops = workload.prompts(shape, given.prompts, given.seed), set(workload.ends(shape))
    tokens, mask = padded(prompts, max(map(len, prompts)), left=True)
    model = torch_model(shape, given.seed).eval()
    inputs = {
        'input_ids': torch.tensor(tokens, dtype=torch.long),
        'attention_mask': torch.tensor(mask),
    }
    made, rounds = [], []
    for i in range(1 + given.rounds):
        torch.manual_seed(i)
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                **inputs,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=given.max_tokens,
                num_return_sequences=given.samples,
                eos_token_id=sorted(stops),
                pad_token_id=workload.PAD,
                **given.transformers,
            )
        rounds.append(time.perf_counter() - start)
        made.append(
            sum(workload.produced(row, stops) for row in out[:, tokens.shape[1] :].tolist())
        )
    return sample_row(made[1:], rounds[1:], first_call_s=rounds[0])


# --- running them -----------------------------------------------------------------------------------------------------


def versions() -> dict:
    """Of the packages that matter, those that are here."""
    out = {'python': sys.version.split()[0]}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return out


def parse(argv=None):
    flags = argparse.ArgumentParser(
        prog='python -m experiments.speed.peers', allow_abbrev=False, description='Times the peers.'
    )
    flags.add_argument('--json', help='where the figures go')
    flags.add_argument('--only', default=','.join(NEEDS), help=f'of {", ".join(NEEDS)}')
    flags.add_argument('--shape', default='default', choices=workload.SHAPES)
    flags.add_argument('--pairs', type=workload.positive, default=16, help='of an update')
    flags.add_argument('--steps', type=workload.positive, default=8, help='updates of a round')
    flags.add_argument(
        '--rounds',
        type=workload.positive,
        default=3,
        help='how often each is timed, after one that warms up',
    )
    flags.add_argument('--prompts', type=workload.positive, default=16)
    flags.add_argument('--samples', type=workload.positive, default=8, help='of a prompt')
    flags.add_argument('--max_tokens', type=workload.positive, default=192, help='of a sample')
    flags.add_argument('--seed', type=int, default=0)
    flags.add_argument(
        '--trl', type=json.loads, default={}, help='JSON: fields of DPOConfig instead of ours'
    )
    flags.add_argument(
        '--transformers',
        type=json.loads,
        default={},
        help='JSON: arguments of generate beside ours',
    )
    flags.add_argument(
        '--inside', action='store_true', help='run the one peer of --only in this process'
    )
    given = flags.parse_args(argv)
    given.only = given.only.split(',')
    if unknown := [name for name in given.only if name not in NEEDS]:
        flags.error(f'no peer {unknown[0]!r}; there are: {", ".join(NEEDS)}')
    if given.inside and (len(given.only) > 1 or not given.json):
        flags.error('--inside wants --json and a single --only')
    return given


def inside(given) -> None:
    """Runs one peer here and writes its figures."""
    row = globals()[given.only[0]](workload.SHAPES[given.shape], given)
    row['peak_rss_gb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    row['versions'], row['flags'] = versions(), vars(given) | {'json': None}
    with open(given.json, 'w') as file:
        json.dump(row, file)


def main() -> None:
    given, results = parse(), {}
    if given.inside:
        return inside(given)
    for name in given.only:
        package, how = NEEDS[name]
        if importlib.util.find_spec(package) is None:
            print(f'{name}: {package} is not installed here; {how}')
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'row.json')
            own = (
                '--only',
                name,
                '--json',
                path,
                '--inside',
            )  # of a flag given twice the last counts
            command = [sys.executable, '-m', 'experiments.speed.peers', *sys.argv[1:], *own]
            environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'TOKENIZERS_PARALLELISM': 'false'}
            if subprocess.run(command, env=environment).returncode:
                print(f'{name}: failed, see above')
                continue
            with open(path) as file:
                results[name] = row = json.load(file)
        step = f'{row["step_s"]:.2f} s a step, ' if 'step_s' in row else ''
        print(
            f'{name}: {row["tokens_per_s"]:,.0f} real tokens/s (best round {row["tokens_per_s_best"]:,.0f}), {step}'
            f'peak memory {row["peak_rss_gb"]:.2f} GB'
        )
    if given.json:
        with open(given.json, 'w') as file:
            json.dump(results, file, indent=2)


if __name__ == '__main__':
    main()
