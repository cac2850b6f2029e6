"""How fast are an update and sampling, and how far from what the machine can do?

    python -m experiments.speed.run --json=out.json

Synthetic weights and tokens, see `workload`. Both are timed through what a training run calls:
`trainer.train` (packing, the reference's pass, fresh moments, all steps) and `generate.generate`.
Figures are medians over rounds, after one that compiles. tokens/s are of real tokens: 2·prompt +
chosen + rejected of an update's pairs, and what sampling produced.
"""

import argparse
import json
import resource

import jax

import selfrew
from experiments.speed import machine, timing, workload
from experiments.speed.figures import versions
from selfrew.models import attention, decoder, language_model

PACKAGES = 'jax', 'jaxlib', 'flax', 'optax', 'numpy'  # those that matter for speed


def measure(options: argparse.Namespace) -> dict:
    """All figures, as the JSON has them."""
    shape, device, figures = workload.SHAPES[options.shape], jax.devices()[0], {}
    is_accelerator = device.platform != 'cpu'
    lm, params = timing.build(
        shape, options.dtype, options.seed, attention=options.attention, remat=options.remat
    )
    if options.only != 'update':
        figures['sample'] = timing.time_sample(lm, params, shape, options)
    if options.only != 'sample':
        figures['update'] = timing.time_update(lm, params, shape, options)
    # Memory is read before the matrices of the peaks are made.
    figures['peak_rss_gb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if is_accelerator:
        memory = device.memory_stats() or {}
        figures['peak_device_gb'] = memory.get('peak_bytes_in_use', 0) / 1e9
    del params
    add_peaks(figures, options, device)
    flags = {name: value for name, value in vars(options).items() if name != 'json'}
    installed = {'selfrew': selfrew.__version__} | versions(PACKAGES)
    return figures | {'device': machine.device_name(), 'versions': installed, 'flags': flags}


def add_peaks(figures: dict, options: argparse.Namespace, device) -> None:
    """Measures the machine's peaks and adds them, and the fractions of them that were reached."""
    is_accelerator = device.platform != 'cpu'
    sides = [4096, 8192, 16_384] if is_accelerator else [1024, 2048, 3072]
    peak = machine.gemm_peak(options.dtype, [options.gemm] if options.gemm else sides)
    figures['gemm_peak_gflops'] = peak / 1e9
    nominal = machine.nominal_peak(device.device_kind)
    for name in ('update', 'sample'):
        if name in figures:
            flops = figures[name]['useful_gflops'] * 1e9
            figures[name]['peak_fraction'] = flops / peak
            if nominal and options.dtype == 'bfloat16':
                figures[name]['mfu'] = flops / nominal
    if is_accelerator:
        figures['copy_gb_per_s'] = machine.copy_bandwidth(2**28) / 1e9
        if sample := figures.get('sample'):
            sample['bandwidth_fraction'] = sample['read_gb_per_s'] / figures['copy_gb_per_s']


def report(figures: dict) -> str:
    """The figures as text."""
    peak = f'matrix-multiply peak {figures["gemm_peak_gflops"]:,.1f} GFLOP/s'
    lines = [f'{figures["device"]}; {peak}']
    if 'copy_gb_per_s' in figures:
        lines.append(
            f'copy bandwidth {figures["copy_gb_per_s"]:,.0f} GB/s; '
            f'peak of device memory {figures["peak_device_gb"]:.2f} GB'
        )
    for name in ('update', 'sample'):
        if name in figures:
            lines += report_part(name, figures[name])
    return '\n'.join([*lines, f'peak of host memory {figures["peak_rss_gb"]:.2f} GB'])


def report_part(name: str, part: dict) -> list[str]:
    """The lines on updates or on sampling."""
    rate = f'{part["tokens_per_s"]:,.0f} real tokens/s'
    if 'step_s' in part:
        rate += f', {part["step_s"]:.3f} s a step (best round {part["step_s_best"]:.3f})'
    reached = (
        f'{part["useful_gflops"]:,.1f} useful GFLOP/s = {part["peak_fraction"]:.1%} of the peak'
    )
    if 'mfu' in part:
        reached += f', {part["mfu"]:.1%} MFU'
    if 'bandwidth_fraction' in part:
        reached += f', {part["bandwidth_fraction"]:.1%} of the copy bandwidth'
    others = part.get('compiles_other_pairs', part.get('compiles_other_prompts'))
    compiled = f'{part["compiles"]} programs compiled in {part["compile_s"]:.1f} s'
    lines = [f'{name}: {rate}, {reached}; {compiled}, {others} more on other data']
    if count := part['compiles_timed']:
        lines.append(f'{name}: {count} programs were compiled while the clock ran; do not trust it')
    return lines


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags, checked; exits with a message where one is wrong."""
    parser = argparse.ArgumentParser(
        prog='python -m experiments.speed.run',
        allow_abbrev=False,
        description='Times updates and sampling, and compares them with what the machine can do.',
    )
    positive = workload.positive
    dtypes, remat = language_model.DTYPES, decoder.REMAT
    add = parser.add_argument
    add('--json', help='where the figures go')
    add('--shape', default='default', choices=workload.SHAPES, help='of the model')
    add('--dtype', default='float32', choices=dtypes, help='of the compute and the parameters')
    add('--attention', default='xla', choices=attention.BACKENDS)
    add('--remat', default='none', choices=remat, help='recomputed in the backward pass')
    add('--pairs', type=positive, default=16, help='of an update')
    add('--steps', type=positive, default=8, help='updates of a round')
    add('--rounds', type=positive, default=3, help='timed rounds of updates, and of sampling')
    add('--row_length', type=positive, help='tokens of a packed row; default: that of train')
    add('--prompts', type=positive, default=16)
    add('--samples', type=positive, default=8, help='of a prompt')
    add('--max_tokens', type=positive, default=192, help='of a sample')
    add('--slots', type=positive, help='samples decoded at a time; default: that of generate')
    add('--only', default='both', choices=('both', 'update', 'sample'))
    add('--gemm', type=positive, help='side of the matrices of the peak; default: several')
    add('--seed', type=int, default=0)
    options = parser.parse_args(argv)
    longest_prompt = workload.PROMPT.high
    longest = longest_prompt + max(options.max_tokens, workload.RESPONSE.high)
    if longest > workload.POSITIONS:
        parser.error(
            f'--max_tokens={options.max_tokens}: prompts have up to {longest_prompt} tokens and '
            f'the model has {workload.POSITIONS} positions'
        )
    if options.seed < 0:
        parser.error(f'--seed={options.seed}: want at least 0')
    return options


def main() -> None:
    options = parse()
    figures = measure(options)
    print(report(figures))
    if options.json:
        with open(options.json, 'w') as file:
            json.dump(figures, file, indent=2)


if __name__ == '__main__':
    main()
