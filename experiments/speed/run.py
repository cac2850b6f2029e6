"""How fast are an update and sampling, and how far from what the machine can do?

    python -m experiments.speed.run --json=out.json

Synthetic weights and tokens, see `workload`. Both are timed through what a training run calls:
`trainer.train` (packing, the reference's pass, fresh moments, all steps) and `generate.generate`.
Figures are medians over rounds, after one that compiles. tokens/s are of real tokens: 2·prompt +
chosen + rejected of an update's pairs, and what sampling produced.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import selfrew
from experiments.speed import workload
from selfrew.engine import generate, trainer
from selfrew.engine.generate import memory_plan
from selfrew.mesh import sharding
from selfrew.models import attention, decoder, language_model
from selfrew.shelves import losses, optimizers
from selfrew.types import Example, Response, State, ask

COMPILED = '/jax/core/compile/backend_compile_duration'
# Dense bfloat16 FLOP/s by the data sheets, for MFU.
NOMINAL = {'A100': 312e12, 'H100': 989.4e12, 'H200': 989.4e12}


class Words:
    """The tokenizer: a word is a token's number."""

    def __init__(self, shape):
        self.pad, self.ends = workload.PAD, workload.ends(shape)

    def prompt(self, prompt):
        return self.encode(prompt.text)

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, tokens):
        return ' '.join(map(str, tokens))


def build(shape: workload.Shape, dtype: str, seed: int, **fields):
    """(lm, params) of random weights that compute and are kept in `dtype`; fields: of the module."""
    mesh = sharding.make_mesh()
    config = decoder.ModelConfig(
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
        rope=decoder.Rope(shape.rope_theta),
        norm_eps=shape.norm_eps,
    )
    module = decoder.make_module(config, dtype, mesh=mesh, **fields)
    lm = language_model.Lm(module, Words(shape), mesh, stored=dtype)

    def fresh(key):
        return jax.tree.map(
            lambda x, like: x.astype(like.dtype), decoder.init_params(module, key), lm.abstract_params()
        )

    return lm, jax.jit(fresh, out_shardings=lm.param_shardings())(jax.random.key(seed))


@contextlib.contextmanager
def compiling():
    """The programs compiled inside: a list of the seconds of each."""
    seen = []

    def watch(event, seconds, **_):
        if event == COMPILED:
            seen.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(watch)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(watch)


def examples(pairs: list[workload.Pair]) -> list[Example]:
    """Pairs as a round's examples, their responses given as the tokens that were sampled."""
    words = lambda tokens: ' '.join(map(str, tokens))
    return [
        Example(
            ask(f'pair/{i}', words(p.prompt)),
            (Response(words(p.chosen), p.chosen), Response(words(p.rejected), p.rejected)),
        )
        for i, p in enumerate(pairs)
    ]


def time_update(lm, params, shape, given) -> dict:
    """Seconds, tokens and FLOPs of DPO updates with AdamW. A round is one `trainer.train` of
    given.steps updates.

    Spends `params`. Two rounds come before the timed ones: the first compiles; the second, on other
    pairs, says what a run's later rounds would compile again.
    """
    loss, key = functools.partial(losses.dpo, beta=0.1), jax.random.key(given.seed)
    rows = {} if given.row_length is None else {'row_length': given.row_length}
    pairs, others = (
        workload.pairs(shape, given.pairs * given.steps, given.seed + i) for i in range(2)
    )
    state = State(params, None, 0, 0)

    def round_of(state, pairs):
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
            batch=given.pairs,
            **rows,
        )
        jax.block_until_ready(state.params)
        if totals['dropped']:
            raise SystemExit(
                f'{totals["dropped"]} pairs do not fit into a row: want a longer --row_length'
            )
        return state, time.perf_counter() - start

    with compiling() as first:
        state, _ = round_of(state, pairs)
    with compiling() as second:
        state, _ = round_of(state, others)
    with compiling() as timed:
        rounds = []
        for _ in range(given.rounds):
            state, seconds = round_of(state, pairs)
            rounds.append(seconds)
    seconds, flops = statistics.median(rounds), workload.update_flops(shape, pairs)
    return {
        'tokens_per_s': workload.real_tokens(pairs) / seconds,
        'step_s': seconds / given.steps,
        'step_s_best': min(rounds) / given.steps,
        'useful_gflop': flops / given.steps / 1e9,
        'useful_gflops': flops / seconds / 1e9,
        'compiles': len(first),
        'compiles_other_pairs': len(second),
        'compiles_timed': len(timed),
        'compile_s': sum(first),
        'rounds_s': rounds,
    }


def time_sample(lm, params, shape, given) -> dict:
    """Seconds, tokens and FLOPs of sampling. A round is one `generate.generate` for all prompts and
    samples.

    Before the timed rounds, which draw new samples of the same prompts, one compiles and one has
    other prompts.
    """
    slots = given.slots or memory_plan.default_slots(lm, given.prompts * given.samples)
    width = jnp.dtype(given.dtype).itemsize

    def round_of(i, prompts):
        ids = [f'prompt/{k}' for k in range(len(prompts)) for _ in range(given.samples)]
        keys = generate.request_keys(
            jax.random.key(given.seed + i), ids, list(range(given.samples)) * len(prompts)
        )
        requests = [list(p) for p in prompts for _ in range(given.samples)]
        start = time.perf_counter()
        out = generate.generate(
            lm, params, requests, keys, max_tokens=given.max_tokens, slots=given.slots
        )
        seconds = time.perf_counter() - start
        lengths = (
            np.array([len(r.tokens) for r in out]).reshape(len(prompts), given.samples).tolist()
        )
        return seconds, lengths

    prompts, others = (workload.prompts(shape, given.prompts, given.seed + i) for i in range(2))
    with compiling() as first:
        round_of(0, prompts)
    with compiling() as second:
        round_of(0, others)
    with compiling() as timed:
        rounds = [round_of(1 + i, prompts) for i in range(given.rounds)]
    lengths_of, rates, floats, touched = [len(p) for p in prompts], [], [], []
    for seconds, lengths in rounds:
        rates.append(sum(map(sum, lengths)) / seconds)
        floats.append(workload.sample_flops(shape, lengths_of, lengths) / seconds)
        touched.append(workload.sample_bytes(shape, lengths_of, lengths, slots, width) / seconds)
    return {
        'tokens_per_s': statistics.median(rates),
        'tokens_per_s_best': max(rates),
        'tokens': [sum(map(sum, lengths)) for _, lengths in rounds],
        'rounds_s': [seconds for seconds, _ in rounds],
        'useful_gflops': statistics.median(floats) / 1e9,
        'read_gb_per_s': statistics.median(touched) / 1e9,
        'compiles': len(first),
        'compiles_other_prompts': len(second),
        'compiles_timed': len(timed),
        'compile_s': sum(first),
    }


def best_seconds(call, repeats: int) -> float:
    """The shortest of so many timed calls, after one that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def gemm_peak(dtype: str, sides: list[int], repeats: int = 5) -> float:
    """FLOP/s of the fastest product of two square matrices, of all those sides."""
    multiply, rates = jax.jit(jnp.matmul), []
    for n in sides:
        a, b = jax.random.normal(jax.random.key(0), (2, n, n), dtype)
        rates.append(2 * n**3 / best_seconds(functools.partial(multiply, a, b), repeats))
    return max(rates)


def copy_bandwidth(numbers: int, repeats: int = 10) -> float:
    """Bytes/s, read and written, of adding 1 to so many float32."""
    x = jnp.zeros(numbers)
    return 8 * numbers / best_seconds(functools.partial(jax.jit(lambda x: x + 1), x), repeats)


def device_name() -> str:
    """The device that is measured: of a CPU its model and the cores this process may use."""
    device = jax.devices()[0]
    if device.platform != 'cpu':
        return device.device_kind
    try:
        with open('/proc/cpuinfo') as file:
            model = next(
                line.split(':')[1].strip() for line in file if line.startswith('model name')
            )
    except (OSError, StopIteration):
        model = platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{model}, {cores} cores'


def versions() -> dict:
    named = {
        name: importlib.metadata.version(name)
        for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
    }
    return {'selfrew': selfrew.__version__, 'python': platform.python_version(), **named}


def measure(given) -> dict:
    """All figures, as the JSON has them."""
    shape, device, out = workload.SHAPES[given.shape], jax.devices()[0], {}
    accelerator = device.platform != 'cpu'
    lm, params = build(shape, given.dtype, given.seed, attention=given.attention, remat=given.remat)
    if given.only != 'update':
        out['sample'] = time_sample(lm, params, shape, given)
    if given.only != 'sample':
        out['update'] = time_update(lm, params, shape, given)
    out['peak_rss_gb'] = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    )  # before the peaks' matrices
    if accelerator:
        out['peak_device_gb'] = (device.memory_stats() or {}).get('peak_bytes_in_use', 0) / 1e9
    del params
    sides = (
        [given.gemm] if given.gemm else [4096, 8192, 16_384] if accelerator else [1024, 2048, 3072]
    )
    peak = gemm_peak(given.dtype, sides)
    out['gemm_peak_gflops'] = peak / 1e9
    nominal = next((f for name, f in NOMINAL.items() if name in device.device_kind), None)
    for part in (out[name] for name in ('update', 'sample') if name in out):
        part['peak_fraction'] = part['useful_gflops'] * 1e9 / peak
        if nominal and given.dtype == 'bfloat16':
            part['mfu'] = part['useful_gflops'] * 1e9 / nominal
    if accelerator:
        out['copy_gb_per_s'] = copy_bandwidth(2**28) / 1e9
        if 'sample' in out:
            out['sample']['bandwidth_fraction'] = (
                out['sample']['read_gb_per_s'] / out['copy_gb_per_s']
            )
    flags = {name: value for name, value in vars(given).items() if name != 'json'}
    return out | {'device': device_name(), 'versions': versions(), 'flags': flags}


def said(out: dict) -> str:
    """The figures for a reader."""
    lines = [f'{out["device"]}; matrix-multiply peak {out["gemm_peak_gflops"]:,.1f} GFLOP/s']
    if 'copy_gb_per_s' in out:
        lines.append(
            f'copy bandwidth {out["copy_gb_per_s"]:,.0f} GB/s; peak of device memory '
            f'{out["peak_device_gb"]:.2f} GB'
        )
    for name in ('update', 'sample'):
        if name not in out:
            continue
        part = out[name]
        step = (
            f'{part["step_s"]:.3f} s a step (best round {part["step_s_best"]:.3f}), '
            if 'step_s' in part
            else ''
        )
        more = f', {part["mfu"]:.1%} MFU' if 'mfu' in part else ''
        more += (
            f', {part["bandwidth_fraction"]:.1%} of the copy bandwidth'
            if 'bandwidth_fraction' in part
            else ''
        )
        other = part.get('compiles_other_pairs', part.get('compiles_other_prompts'))
        lines.append(
            f'{name}: {part["tokens_per_s"]:,.0f} real tokens/s, {step}{part["useful_gflops"]:,.1f} useful GFLOP/s = '
            f'{part["peak_fraction"]:.1%} of the peak{more}; {part["compiles"]} programs compiled in '
            f'{part["compile_s"]:.1f} s, {other} more on other data'
        )
        if part['compiles_timed']:
            lines.append(
                f'{name}: {part["compiles_timed"]} programs were compiled while the clock ran; distrust it'
            )
    return '\n'.join([*lines, f'peak of host memory {out["peak_rss_gb"]:.2f} GB'])


def parse(argv=None):
    """The flags, checked; leaves with a message where one is wrong."""
    flags = argparse.ArgumentParser(
        prog='python -m experiments.speed.run',
        allow_abbrev=False,
        description=__doc__.splitlines()[0],
    )
    flags.add_argument('--json', help='where the figures go')
    flags.add_argument('--shape', default='default', choices=workload.SHAPES, help='of the model')
    flags.add_argument(
        '--dtype',
        default='float32',
        choices=language_model.DTYPES,
        help='of the compute and of the parameters',
    )
    flags.add_argument('--attention', default='xla', choices=attention.BACKENDS)
    flags.add_argument(
        '--remat', default='none', choices=decoder.REMAT, help='computed again in the backward pass'
    )
    flags.add_argument('--pairs', type=workload.positive, default=16, help='of an update')
    flags.add_argument('--steps', type=workload.positive, default=8, help='updates of a round')
    flags.add_argument(
        '--rounds',
        type=workload.positive,
        default=3,
        help='timed rounds of updates, and of sampling',
    )
    flags.add_argument(
        '--row_length',
        type=workload.positive,
        help="of packed rows, tokens; without it, train's own",
    )
    flags.add_argument('--prompts', type=workload.positive, default=16)
    flags.add_argument('--samples', type=workload.positive, default=8, help='of a prompt')
    flags.add_argument('--max_tokens', type=workload.positive, default=192, help='of a sample')
    flags.add_argument(
        '--slots',
        type=workload.positive,
        help="samples decoded at a time; without it, generate's own",
    )
    flags.add_argument('--only', default='both', choices=('both', 'update', 'sample'))
    flags.add_argument(
        '--gemm',
        type=workload.positive,
        help='side of the matrices of the peak; without it, several',
    )
    flags.add_argument('--seed', type=int, default=0)
    given = flags.parse_args(argv)
    longest = workload.PROMPT[1] + max(given.max_tokens, workload.RESPONSE[1])
    if longest > workload.POSITIONS:
        flags.error(
            f'--max_tokens={given.max_tokens}: prompts have up to {workload.PROMPT[1]} tokens and the model '
            f'{workload.POSITIONS} positions'
        )
    if given.seed < 0:
        flags.error(f'--seed={given.seed}: want at least 0')
    return given


def main() -> None:
    given = parse()
    out = measure(given)
    print(said(out))
    if given.json:
        with open(given.json, 'w') as file:
            json.dump(out, file, indent=2)


if __name__ == '__main__':
    main()
