"""What a compiled program needs of a chip, how long it takes, and how long a round takes."""

import math
import os
import pathlib
import re
import tempfile
import time

from selfrew.engine.generate import scheduler
from selfrew.plan import chips, hlo
from selfrew.plan.jobs import GiB, PlannedJob, argument
from selfrew.plan.lowering import Program
from selfrew.plan.training import BatchShape, example_count, reference_passes
from selfrew.running.turns import Turn


def compile_and_predict(program: Program, chip: chips.Chip, count: int) -> dict:
    """Compiles a program for `count` chips; what it needs and how long it takes, as JSON can hold.

    'bytes' are per chip, times in seconds. Where the compiler refuses it for its memory there is
    only 'refused', the compiler's sentence.
    """
    start = time.time()
    result = {'tokens': program.tokens, 'model_flops': program.flops}
    try:
        compiled, text = _compile(program)
    except Exception as problem:
        if 'RESOURCE_EXHAUSTED' not in str(problem):
            raise
        return result | {'bytes': program.bytes, 'fits': False, 'refused': _refusal(problem)}
    counted, cost = hlo.read(text), compiled.cost_analysis() or {}
    pallas = chip.kernel_seconds(*program.kernel_work) if counted['kernels'] else 0.0
    needed = memory_bytes(compiled)
    total = sum(needed.values())
    seconds = chip.seconds(
        count,
        kernels=counted['cycles'] / chip.clock + pallas,
        flops=program.flops,
        touched=needed['arguments'],
        wire=counted['wire'],
    )
    return result | {
        'bytes': program.bytes | needed | {'total': total},
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
        'compiler': {key: cost.get(key) for key in ('flops', 'bytes accessed', 'optimal_seconds')},
        'compile_seconds': time.time() - start,
    }


def _compile(program: Program):
    """(the compiled program, its text). Compiled.as_text cannot read all that libtpu writes."""
    with tempfile.TemporaryDirectory() as folder:
        options = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
        compiled = program.lower().compile(compiler_options=options)
        dumps = pathlib.Path(folder).glob('*after_codegen.txt')
        return compiled, max(dumps, key=os.path.getsize).read_text()


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


def round_seconds(
    turn: Turn,
    planned_jobs: list[PlannedJob],
    shape: BatchShape,
    results: dict,
    copy_seconds: float = 0.0,
) -> dict:
    """Seconds of each stage of a round, and of all as 'round'; None where they are not known.

    Every response is taken to run to its limit, and every prompt to give all of its pairs.
    results: by program title, see `compile_and_predict`. copy_seconds: of laying out the parameters
    for sampling, once a round.
    """

    def seconds_of(title: str) -> float:
        return results.get(title, {}).get('seconds', math.nan)

    stages = {'copy': copy_seconds} if copy_seconds else {}
    for job, sizes in planned_jobs:
        chunks = math.ceil((job.prompt_tokens - 1 - sizes.prefix_tokens) / sizes.prefill_chunk)
        prefix_chunks = math.ceil(sizes.prefix_tokens / sizes.prefill_chunk)
        prefills = math.ceil(job.distinct_prompts / sizes.prefill_rows) * chunks + prefix_chunks
        bursts = math.ceil(job.requests / sizes.slots) * job.max_tokens / scheduler.BURST
        stages[job.title] = prefills * seconds_of(f'{job.title}: prefill') + bursts * seconds_of(
            f'{job.title}: decode'
        )
    examples = example_count(turn)
    batches = math.ceil(examples / shape.examples)
    if 'reference' in results:
        stages['reference'] = reference_passes(turn) * batches * seconds_of('reference')
    epochs, max_steps = argument(turn.train, 'epochs'), argument(turn.train, 'max_steps')
    stages['update'] = min(batches * epochs, max_steps or math.inf) * seconds_of('update')
    stages['round'] = sum(stages.values())
    return {stage: None if math.isnan(value) else value for stage, value in stages.items()}
