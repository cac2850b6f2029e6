"""A plan as text, and what to change where it does not fit."""

from selfrew.plan import chips
from selfrew.plan.jobs import GiB

NOTES = """GiB a device; the compiler grants {hbm_gib:.2f}. MFU: model FLOPs over the bfloat16 peak,
every position of a row counted as a token. Model FLOPs: 2 a weight and token forward, 6 in an
update, 4 with LoRA; the head where it is applied; half of the square for causal attention;
recomputation is not counted. The bound: model FLOPs at peak, or what must be read from HBM
(weights, the cache of samples half done, the optimiser) at its bandwidth, whichever takes longer.
Times are predicted, not measured: the compiler's estimate of its
kernels, loops counted as often as they run, or the time to read a program's arguments from HBM if
that is longer; then the collectives' bytes over all links at once, with nothing overlapped. The
compiler has no estimate for Pallas kernels (splash, paged attention), which are counted by their
FLOPs at peak or their bytes at HBM's bandwidth, and none for sorts. A round: prompts of
{prompt_tokens} tokens, every response of full length, the parameters laid out once for sampling;
host work, loading and saving are not counted."""

MEMORY_COLUMNS = 'params', 'optimiser', 'cache', 'arguments', 'temporaries', 'total'
TIME_HEADER = (
    f'{"program":24}    tokens        ms   kernels  collect.    tokens/s    MFU   '
    'of the bound    PFLOP  compiled'
)


def advice(results: dict, chip: chips.Chip, model: dict) -> list[str]:
    """What to change for each program that does not fit; empty where all do.

    results: by program title, see prediction.compile_and_predict. model: the config's fields.
    """
    lines = []
    for title, result in results.items():
        if result['fits']:
            continue
        state = sum(result['bytes'].get(part, 0) for part in ('params', 'optimiser'))
        changes = []
        if state > 0.5 * chip.hbm_gib * GiB:
            changes.append('raise mesh.fsdp or mesh.tensor (more chips)')
            if model.get('params') != 'bfloat16':
                changes.append('model.params=bfloat16')
            if not model.get('lora'):
                changes.append('model.lora=16')
        if ':' in title:
            changes.append(f'fewer slots (of the {"scorer" if "judge" in title else "sampler"})')
        else:
            if title == 'update' and model.get('remat', 'none') != 'full':
                changes.append('model.remat=full')
            if model.get('attention') == 'xla':
                changes.append('model.attention=splash')
            changes.append('a smaller train.batch or train.row_length')
        taken = f'parameters and optimiser take {state / GiB:.1f} GiB a device'
        lines.append(f'{title}: {taken}; ' + ', or '.join(changes))
    return lines


def plan_text(plan: dict) -> str:
    """A plan of planner.make as text."""
    head = (
        '{model}: {parameters:,} parameters on {topology}, {mesh}, sampling on {sampling_mesh}; '
        'jax {jax}, libtpu {libtpu}'
    )
    timed = {title: result for title, result in plan['programs'].items() if 'seconds' in result}
    minutes = ', '.join(
        f'{stage} {"?" if seconds is None else f"{seconds / 60:,.1f}"}'
        for stage, seconds in plan['round_seconds'].items()
    )
    blocks = [
        [head.format(**plan)],
        _memory_lines(plan['programs']),
        _time_lines(timed),
        _collective_lines(timed),
        [f'a round, minutes: {minutes}'],
        _evaluation_lines(plan['evaluations']),
        [plan['verdict']],
        [NOTES.format(**plan)],
    ]
    return '\n\n'.join('\n'.join(lines) for lines in blocks if lines)


def here_text(plan: dict) -> str:
    """A plan of planner.make_here as text."""
    head = (
        '{model}: {parameters:,} parameters on {device}, {mesh}, sampling on {sampling_mesh}, '
        '{memory_gib:.1f} GiB a device; '
        'jax {jax}'
    )
    slots = ', '.join(f'{job["title"]} {job["layout"]["slots"]}' for job in plan['samples'])
    update = plan['update']
    chosen = (
        f'an update: accumulate {update["accumulate"]}, remat {update["remat"]}, by estimate '
        f'{_gib(update["needed"])} of {_gib(update["limit"])} GiB; slots: {slots or "none"}'
    )
    verdict = (
        'fits.'
        if plan['fits']
        else 'does not fit: '
        + ', '.join(title for title, result in plan['programs'].items() if not result['fits'])
    )
    blocks = [[head.format(**plan)], _memory_lines(plan['programs']), [chosen, verdict]]
    return '\n\n'.join('\n'.join(lines) for lines in blocks)


def _gib(size: int | None) -> str:
    return '–' if size is None else f'{size / GiB:.2f}'


def _memory_lines(programs: dict) -> list[str]:
    lines = [f'{"program":24}' + ''.join(f'{name:>12}' for name in MEMORY_COLUMNS) + '   fits']
    for title, result in programs.items():
        cells = ''.join(f'{_gib(result["bytes"].get(name)):>12}' for name in MEMORY_COLUMNS)
        fits = 'yes' if result['fits'] else f'no: {result.get("refused", "too large")}'
        lines.append(f'{title:24}{cells}   {fits}')
    return lines


def _time_lines(timed: dict) -> list[str]:
    lines = [TIME_HEADER]
    for title, result in timed.items():
        seconds = [result[k] for k in ('seconds', 'kernel_seconds', 'collective_seconds')]
        times = ''.join(f'{1e3 * value:>10.1f}' for value in seconds)
        lines.append(
            f'{title:24}{result["tokens"]:>10,}{times}{result["tokens_per_s"]:>12,.0f}'
            f'{result["mfu"]:>7.1%}{result["bound_fraction"]:>9.1%} {result["bound_by"]:5}'
            f'{result["model_flops"] / 1e15:>9.2f}'
            f'{result["compile_seconds"]:>8.0f} s'
        )
    return lines


def _evaluation_lines(jobs: list[dict]) -> list[str]:
    """What the evaluations sample after each round; nothing where there are none."""
    if not jobs:
        return []
    counts = ', '.join(
        f'{job["title"]} {job["requests"]:,} of {job["max_tokens"]:,} tokens' for job in jobs
    )
    return [f'evaluations of a round, but opponents once in a run: {counts}']


def _collective_lines(timed: dict) -> list[str]:
    lines = ['collectives a device, GiB of output (how many):']
    for title, result in timed.items():
        kinds = ', '.join(
            f'{kind} {_gib(total["bytes"])} ({total["count"]:,.0f})'
            for kind, total in result['collectives'].items()
        )
        line = f'  {title}: {kinds or "none"}'
        if result['unknown_loops']:
            line += f'; {result["unknown_loops"]} loops of unknown length counted once'
        if result['sorts']:
            line += f'; {result["sorts"]} sorts not timed'
        if result['kernels']:
            seconds = 1e3 * result['pallas_seconds']
            line += f'; {result["kernels"]} Pallas kernels by their work, {seconds:.1f} ms'
        lines.append(line)
    return lines
