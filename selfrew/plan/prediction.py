"""What a compiled program needs of a chip, how long it takes, and how long a round takes."""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Sequence

import jax

from selfrew.engine.generate import scheduler
from selfrew.engine.run_files import write_atomic
from selfrew.mesh import sharding
from selfrew.plan import chips, hlo
from selfrew.plan.jobs import GiB, PlannedJob, argument
from selfrew.plan.lowering import Program
from selfrew.plan.training import BatchShape, example_count, reference_passes
from selfrew.running.turns import Turn


class Cache:
    """What was compiled for a topology, kept by program in the user's cache folder."""

    def __init__(self, topology: str):
        root = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
        self._folder = pathlib.Path(root) / 'selfrew' / 'plans'
        options = jax.__version__, importlib.metadata.version('libtpu'), sharding.COMPILER_OPTIONS
        self._about = repr((topology, options))

    def get(self, lowered: jax.stages.Lowered, compute: Callable[[], dict]) -> dict:
        """What `compute` gives for a lowered program, computed once."""
        content = '\n'.join([self._about, lowered.as_text()])
        path = self._folder / f'{hashlib.sha256(content.encode()).hexdigest()}.json'
        if path.exists():
            with contextlib.suppress(ValueError):
                return json.loads(path.read_text())
        made = compute()
        with contextlib.suppress(OSError):  # a cache that cannot be written is none
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(str(path), json.dumps(made).encode())
        return made


def compile_and_predict(
    program: Program, chip: chips.Chip, count: int, cache: Cache | None = None
) -> dict:
    """Compiles a program for `count` chips; what it needs and how long it takes, as JSON can hold.

    'bytes' are per chip, times in seconds. Where the compiler refuses it for its memory there is
    only 'refused', the compiler's sentence.
    """
    lowered = program.lower()

    def compute() -> dict:
        return _compile(lowered)

    result = {'tokens': program.tokens, 'model_flops': program.flops}
    compiled = cache.get(lowered, compute) if cache else compute()
    if 'refused' in compiled:
        return result | {'bytes': program.bytes, 'fits': False, 'refused': compiled['refused']}
    counted, needed = compiled['counted'], compiled['needed']
    pallas = chip.kernel_seconds(*program.kernel_work) if counted['kernels'] else 0.0
    total = sum(needed.values())
    seconds = chip.seconds(
        count,
        kernels=counted['cycles'] / chip.clock + pallas,
        flops=program.flops,
        touched=needed['arguments'],
        wire=counted['wire'],
    )
    bound, limit = chip.bound(count, flops=program.flops, touched=program.touched)
    return result | {
        'bytes': program.bytes | needed | {'total': total},
        'bound_seconds': bound,
        'bound_by': limit,
        'bound_fraction': bound / seconds,
        'fits': total <= chip.hbm_gib * GiB,
        'seconds': seconds,
        'tokens_per_s': program.tokens / seconds,
        'mfu': program.flops / seconds / count / chip.peak,
        'kernel_seconds': counted['cycles'] / chip.clock + pallas,
        'pallas_seconds': pallas,
        'collective_seconds': counted['wire'] / chip.ici,
        'collectives': counted['collectives'],
        'unknown_loops': counted['unknown'],
        'sorts': counted['sorts'],
        'kernels': counted['kernels'],
        'compiler': compiled['cost'],
        'compile_seconds': compiled['seconds'],
    }


def _compile(lowered: jax.stages.Lowered) -> dict:
    """What is read from a program once it is compiled: 'counted' (see hlo.read), 'needed' (see
    memory_bytes), 'cost' by the compiler and the 'seconds' that it took; or 'refused', the
    compiler's sentence about memory.
    """
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        options = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
        try:
            compiled = lowered.compile(compiler_options=options)
        except Exception as problem:
            if 'RESOURCE_EXHAUSTED' not in str(problem):
                raise
            return {'refused': _refusal(problem)}
        # Compiled.as_text cannot read all that libtpu writes.
        dumps = pathlib.Path(folder).glob('*after_codegen.txt')
        counted = hlo.read(max(dumps, key=os.path.getsize).read_text())
    cost = compiled.cost_analysis() or {}
    return {
        'counted': counted,
        'needed': memory_bytes(compiled),
        'cost': {key: cost.get(key) for key in ('flops', 'bytes accessed', 'optimal_seconds')},
        'seconds': time.time() - start,
    }


def _refusal(problem: Exception) -> str:
    """The compiler's sentence about the memory it ran out of, or else its first line."""
    sentence = re.search(r'Ran out of memory.*?(?=\. HLO|\n|$)', str(problem))
    return sentence[0] if sentence else str(problem).splitlines()[0]


def memory_bytes(compiled) -> dict[str, int]:
    """Bytes that a compiled program needs on a chip; they add up to its total."""
    memory = compiled.memory_analysis()
    return {
        'arguments': memory.argument_size_in_bytes,
        'outputs': memory.output_size_in_bytes - memory.alias_size_in_bytes,
        'temporaries': memory.temp_size_in_bytes,
        'code': memory.generated_code_size_in_bytes,
    }


def _seconds_of(title: str, results: dict) -> float:
    return results.get(title, {}).get('seconds', math.nan)


def sampling_seconds(planned_jobs: Sequence[PlannedJob], results: dict) -> dict[str, float]:
    """Seconds of each job, by title; nan where they are not known. See `round_seconds`."""
    stages = {}
    for job, sizes in planned_jobs:
        chunks = math.ceil((job.prompt_tokens - 1 - sizes.prefix_tokens) / sizes.prefill_chunk)
        prefix_chunks = math.ceil(sizes.prefix_tokens / sizes.prefill_chunk)
        prefills = math.ceil(job.distinct_prompts / sizes.prefill_rows) * chunks + prefix_chunks
        # Slots are refilled; at the end, the last samples are as long as they come.
        steps = math.ceil(job.requests / sizes.slots) * job.mean_tokens
        bursts = (steps + job.longest - job.mean_tokens) / scheduler.BURST
        reading = prefills * _seconds_of(f'{job.title}: prefill', results)
        stages[job.title] = reading + bursts * _seconds_of(f'{job.title}: decode', results)
    return stages


def _updates(turn: Turn) -> float:
    """The updates of a turn."""
    batches = math.ceil(example_count(turn) / argument(turn.train, 'batch'))
    epochs, max_steps = argument(turn.train, 'epochs'), argument(turn.train, 'max_steps')
    return min(batches * epochs, max_steps or math.inf)


def round_seconds(
    turn: Turn,
    planned_jobs: list[PlannedJob],
    shape: BatchShape,
    results: dict,
    copy_seconds: float = 0.0,
    evaluated: Sequence[PlannedJob] = (),
    rehearsal: Turn | None = None,
) -> dict:
    """Seconds of each stage of a round, and of all as 'round'; None where they are not known.

    Every response is taken to be as long as its job says, and every prompt to give all of its
    pairs.
    results: by program title, see `compile_and_predict`. copy_seconds: of laying out the parameters
    for sampling, once a round. evaluated: what is sampled to evaluate a round. rehearsal: the turn
    that follows in its round, if any, whose update is the program 'rehearsal'.
    """

    stages = {'copy': copy_seconds} if copy_seconds else {}
    stages |= sampling_seconds(planned_jobs, results)
    batches = math.ceil(example_count(turn) / shape.examples)
    if 'reference' in results:
        passes = reference_passes(turn) * batches
        stages['reference'] = passes * _seconds_of('reference', results)
    stages['update'] = _updates(turn) * _seconds_of('update', results)
    if rehearsal is not None:
        stages['rehearsal'] = _updates(rehearsal) * _seconds_of('rehearsal', results)
    own = [planned for planned in evaluated if not planned[0].title.endswith('opponent')]
    if own:  # an opponent's answers are sampled once in a run
        stages['evaluations'] = sum(sampling_seconds(own, results).values())
    stages['round'] = sum(stages.values())
    return {stage: None if math.isnan(value) else value for stage, value in stages.items()}
