"""What a config needs of a TPU that is not there, and how long its programs take."""

import dataclasses
import functools
import importlib.metadata
import math
import os
import pathlib
import re
import tempfile
import time

import jax
import jax.numpy as jnp

from selfrew.engine import reference, train_state, trainer
from selfrew.engine.generate import memory_plan, programs, scheduler
from selfrew.mesh import sharding
from selfrew.mesh.buckets import bucket, round_up
from selfrew.models import attention, decoder, hf, language_model, text
from selfrew.plan import chips, hlo
from selfrew.run import binding
from selfrew.run.turns import bind_turns
from selfrew.shelves import samplers, scorers
from selfrew.tasks import templates
from selfrew.types import Batch

GiB = 2**30


def model_flops(config, matrix: int, tokens: int, heads: int, context: float) -> float:
    """FLOPs of a forward pass: 2 a weight and token, and attention.

    matrix: weights of the blocks' matrices. heads: positions at which the vocabulary's head is
      applied.
    context: columns that a query sees, summed over queries: a causal row of L counts L²/2.
    """
    attention = 4 * config.layers * config.heads * config.head_dim * context
    return 2.0 * matrix * tokens + 2.0 * config.width * config.vocab * heads + attention


# --- the programs of a round ------------------------------------------------------------------------------------------


def build(config: dict, devices):
    """The Lm of a config over some devices, without parameters. ValueError for a model or mesh that
    cannot be.
    """

    given = binding.bind_arguments(
        language_model.load, config['model'] | config['mesh'], 'model, mesh'
    )
    shape, folder, limit, lora, alpha, dtype, attention, remat, stored, cache, gib = (
        _of(given, name)
        for name in (
            'shape',
            'folder',
            'max_length',
            'lora',
            'lora_alpha',
            'dtype',
            'attention',
            'remat',
            'params',
            'cache',
            'cache_gib',
        )
    )
    if not shape and folder != 'tiny' and not os.path.isdir(folder):
        raise ValueError(
            f'no model folder {folder!r} here, and nothing is downloaded for a plan; give model.shape'
        )
    config = (
        hf.config_of(shape, 'model.shape', limit)
        if shape
        else hf.read_config(language_model.resolve_folder(folder), limit)
    )
    config = dataclasses.replace(config, lora=lora, lora_alpha=alpha)
    mesh = sharding.make_mesh(*(_of(given, axis) for axis in sharding.AXES), devices=devices)
    module = decoder.make_module(config, dtype, attention=attention, remat=remat, mesh=mesh)
    return language_model.Lm(module, text.Text(None, 1, 2, 0, (2,)), mesh, stored, None, cache, gib)


def sampling_turn(config: dict):
    """The last turn of a config that samples and is no rehearsal, or else its last turn. Data files
    are not looked for.
    """

    def without_files(entry):
        if isinstance(entry, (list, tuple)):
            return [without_files(e) for e in entry]
        if not isinstance(entry, dict):
            return entry
        given = {k: v for k, v in entry.items() if k not in ('shots', 'generator')}
        return {k: 'tfds:not/read' if k == 'source' else without_files(v) for k, v in given.items()}

    words = {
        k: without_files(config[k])
        for k in ('rounds', 'round', 'start', 'by_round')
        if config.get(k) is not None
    }
    turns = binding.bind_arguments(bind_turns, words, 'config')()
    if not turns:
        raise ValueError('the config has no rounds: there is nothing to plan')
    asking = [
        t for t in turns if t.sampler.func is not samplers.given and 'rehearsal' not in t.name
    ]
    return (asking or turns)[-1]


def _of(bound, name: str):
    """The value that a bound part has for an argument."""
    return bound.keywords.get(name, (bound.func.__kwdefaults__ or {}).get(name))


def prompt_count(turn) -> int:
    """Of a turn, as its config says. ValueError where it does not."""
    inside = turn.prompts.keywords.get('prompts')
    count = sum(
        _of(p, 'n') or 0 for p in (inside if isinstance(inside, tuple) else (turn.prompts,))
    )
    if not count:
        raise ValueError('a plan needs to know how many prompts there are: set n of the prompts')
    return count


def jobs(turn, prompt_tokens: int, limit: int) -> list[dict]:
    """What a turn samples: title, requests, distinct (prompts), shared (tokens that all of them
    begin with), prompt (tokens of one), room (of a response), slots (None: as many as the engine
    takes). Empty: nothing."""

    sampler, extra = turn.sampler, 0
    while 'sampler' in sampler.keywords:
        sampler, extra = sampler.keywords['sampler'], extra + (sampler.func is samplers.with_greedy)
    if sampler.func is samplers.given:
        return []
    count, n, room = prompt_count(turn), _of(sampler, 'n') + extra, _of(sampler, 'max_tokens')
    out = [_job('sample', sampler, count * n, count, prompt_tokens, '', limit)]
    shown = {scorers.judge: {'response': ''}, scorers.compare: {'first': '', 'second': ''}}
    for scorer in turn.scorer.keywords.get('scorers', (turn.scorer,)):
        if scorer.func not in shown:
            continue
        before, _, after = templates.render(
            _of(scorer, 'template'), prompt='\0', **shown[scorer.func]
        ).partition('\0')
        asked = (len(before) + len(after)) // 4 + prompt_tokens + len(shown[scorer.func]) * room
        distinct = count * n * (n - 1 if scorer.func is scorers.compare else 1)
        out.append(
            _job('judge', scorer, distinct * _of(scorer, 'votes'), distinct, asked, before, limit)
        )
    return out


def _job(
    title: str, part, requests: int, distinct: int, prompt: int, before: str, limit: int
) -> dict:
    if (room := _of(part, 'max_tokens')) >= limit:
        raise ValueError(
            f'{title}: max_tokens={room} leaves no room for a prompt in a context of {limit}'
        )
    shared = len(before) // 4 // 32 * 32
    return {
        'title': title,
        'requests': requests,
        'distinct': distinct,
        'shared': shared if shared >= 64 else 0,
        'slots': _of(part, 'slots'),
        'prompt': min(round_up(prompt, 32), limit - room),
        'room': room,
    }


def lay_out(lm, job: dict, chip: chips.Chip):
    """The engine's layout for a job. ValueError where not a slot fits."""

    memory = (
        lm.cache_gib * GiB if lm.cache_gib is not None else memory_plan.CACHE_SHARE * chip.hbm * GiB
    )
    return memory_plan.plan(
        lm,
        [job['prompt']] * job['requests'],
        [job['room']] * job['requests'],
        job['distinct'],
        slots=job['slots'] or memory_plan.SLOTS,
        shared=job['shared'],
        memory=memory,
    )


def batch_shape(turn, prompt: int, response: int, row_count: int) -> dict:
    """Of an update: examples, responses of each, micro-batches, rows of one, tokens of a row,
    selected tokens of a part, as encode packs them where every response has the full length."""
    N = 1 if turn.pairs.func.__name__ == 'singles' else 2
    length, examples = _of(turn.train, 'row_length'), _of(turn.train, 'batch')
    a_row = max(length // (prompt + N * response), 1)
    micros = _of(turn.train, 'accumulate')
    parts = row_count * micros
    rows = bucket(math.ceil(examples / a_row), parts)
    each = min(rows // parts * a_row, examples) * N * response  # of the part with most
    return {
        'examples': examples,
        'n': N,
        'micros': micros,
        'rows': rows // micros,
        'length': length,
        'selected': min(bucket(each), rows // parts * length),
    }


def _burst(module, params, shared, state, pages):
    """What programs.decode does between two looks of the host, but so many steps that the compiler
    knows how many.
    """

    return jax.lax.fori_loop(
        0,
        scheduler.BURST,
        lambda _, state: programs.decode_step(module, params, shared, state, pages),
        state,
    )


def round_programs(lm, turn, todo: list[dict], shape: dict):
    """Yields (title, tokens, flops, lower(), sizes) of each program, sizes in bytes per device."""

    rows, whole = sharding.of(lm.mesh, 'rows'), sharding.of(lm.mesh)
    array = lambda shape, kind, where=rows: jax.ShapeDtypeStruct(shape, kind, sharding=where)
    key = jax.eval_shape(lambda: jax.random.key(0)).dtype
    size = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    held = lambda tree: sum(map(size, jax.tree.leaves(tree)))
    optimizer = train_state.cached_optimizer(turn.train.keywords['optimizer'])
    state = train_state.abstract_state(lm, optimizer)
    weights, opt = held(state.params), held(state.opt)
    c, matrix = lm.config, decoder.count_weights(lm.module)
    i32, f32 = jnp.int32, jnp.float32

    def laid(tree):
        """Caches with rows and heads split, the rest whole."""
        names = lambda x: (None, 'rows', 'kv', None, None) if x.ndim == 5 else (None,) * x.ndim
        return jax.tree.map(
            lambda x: array(x.shape, x.dtype, sharding.of_shape(lm.mesh, x.shape, names(x))), tree
        )

    for job in todo:
        layout, module, kind = job['layout'], lm.module, lm.cache_dtype
        P, R, L, S = layout.shared, layout.prompts, layout.chunk, layout.slots
        held_by = lambda *sizes: laid(
            jax.eval_shape(lambda: programs.empty_cache(module, kind, *sizes))
        )
        shared = None
        if P:
            heads = sharding.of_shape(lm.mesh, (0, c.kv_heads, 0, 0), (None, 'kv', None, None))
            shared = jax.tree.map(
                lambda x: array(x.shape, x.dtype, heads),
                jax.eval_shape(functools.partial(programs.as_prefix_cache, module), held_by(1, P)),
            )
        pool, tokens = held_by(R, layout.pool), R * L
        read = lambda pool=pool, shared=shared, R=R, L=L: programs.prefill.lower(
            lm.module, state.params, array((R, L), i32), array((), i32, whole), shared, pool
        )
        context = job['prompt'] / 2  # columns that a query sees on the average
        yield (
            f'{job["title"]}: prefill',
            tokens,
            model_flops(c, matrix, tokens, 0, tokens * context),
            read,
            {'params': weights, 'cache': held(pool)},
        )
        parts = sharding.row_shards(lm.mesh)
        count = parts + S * layout.blocks  # with every sample at its full length
        full = laid(
            jax.eval_shape(
                functools.partial(
                    programs.empty_slots,
                    module,
                    kind,
                    rows=S,
                    pages=count,
                    page=layout.page,
                    limit=layout.limit,
                    ends=1,
                    words=2,
                )
            )
        )
        pages = attention.Pages(
            *(array(shape, i32) for shape in ((S, layout.blocks), (count,), (count,))), None
        )
        burst, many = functools.partial(_burst, module), S * scheduler.BURST
        flops = model_flops(c, matrix, many, many, many * (job['prompt'] + job['room'] / 2))
        decode = lambda burst=burst, shared=shared, full=full, pages=pages: jax.jit(
            burst, donate_argnums=2
        ).lower(state.params, shared, full, pages)
        yield (
            f'{job["title"]}: decode',
            many,
            flops,
            decode,
            {'params': weights, 'cache': held(full.cache)},
        )

    R, L, S, B, N, A = (shape[k] for k in ('rows', 'length', 'selected', 'examples', 'n', 'micros'))
    P = sharding.row_shards(lm.mesh)
    batch = Batch(
        *(array((R, L), i32) for _ in range(4)),
        *(array((P, S), i32) for _ in range(2)),
        array((P, S), f32),
        *(array((B,), kind, whole) for kind in (f32, f32, i32)),
        array((), f32, whole),
        array((N,), f32, whole),
        array((B, N), f32, whole),
    )
    flops = model_flops(c, matrix, R * L, P * S, R * L * L / 2)
    if todo or N > 1:
        yield (
            'reference',
            R * L,
            flops,
            lambda: reference.response_logp.lower(lm.module, state.params, batch),
            {'params': weights},
        )
    part, rest = train_state.trainable(lm, state.params), state.params if c.lora else {'blocks': {}}
    step = trainer.compiled_step(lm, turn.loss, optimizer).compiled
    where = lambda x: sharding.of(lm.mesh, None, *(['rows'] if x.sharding == rows else []))
    micro = lambda x: array((A, *x.shape), x.dtype, where(x))
    batches = batch if A == 1 else jax.tree.map(micro, batch)
    yield (
        'update',
        A * R * L,
        A * flops * (2 if c.lora else 3),
        lambda: step.lower(state._replace(params=part), rest, batches, 1e-6, array((), key, whole)),
        {'params': weights, 'optimiser': opt},
    )


def examine(lower, chip: chips.Chip, count: int, tokens: int, flops: float, sizes: dict) -> dict:
    """What a program needs and takes; only its refusal where the compiler refuses it for its
    memory.
    """
    begun, out = time.time(), {'tokens': tokens, 'model_flops': flops, 'bytes': sizes}
    try:
        with (
            tempfile.TemporaryDirectory() as folder
        ):  # Compiled.as_text cannot read all that this compiler writes
            compiled = lower().compile(
                compiler_options={'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
            )
            written = max(
                pathlib.Path(folder).glob('*after_codegen.txt'), key=os.path.getsize
            ).read_text()
    except Exception as problem:
        if 'RESOURCE_EXHAUSTED' not in str(problem):
            raise
        said = re.search(r'Ran out of memory.*?(?=\. HLO|\n|$)', str(problem))
        return out | {'fits': False, 'refused': said[0] if said else str(problem).splitlines()[0]}
    memory, cost, does = compiled.memory_analysis(), compiled.cost_analysis(), hlo.read(written)
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    sizes |= {
        'arguments': memory.argument_size_in_bytes,
        'outputs': fresh,
        'temporaries': memory.temp_size_in_bytes,
        'code': memory.generated_code_size_in_bytes,
    }
    total = sum(sizes[k] for k in ('arguments', 'outputs', 'temporaries', 'code'))
    took = chip.seconds(
        count, cycles=does['cycles'], flops=flops, touched=sizes['arguments'], wire=does['wire']
    )
    return out | {
        'bytes': sizes | {'total': total},
        'fits': total <= chip.hbm * GiB,
        'seconds': took,
        'tokens_per_s': tokens / took,
        'mfu': flops / took / count / chip.peak,
        'kernel_seconds': does['cycles'] / chip.clock,
        'collective_seconds': does['wire'] / chip.ici,
        'collectives': does['collectives'],
        'unknown_loops': does['unknown'],
        'untimed': does['untimed'],
        'compiler': {k: cost.get(k) for k in ('flops', 'bytes accessed', 'optimal_seconds')},
        'compile_seconds': time.time() - begun,
    }


def round_seconds(turn, todo: list[dict], shape: dict, found: dict) -> dict:
    """Of a round's stages, where every sample runs to its limit and every prompt gives its pairs;
    None: not known.
    """

    took = lambda title: found.get(title, {}).get('seconds', math.nan)
    out = {}
    for job in todo:
        layout = job['layout']
        chunks = math.ceil((job['prompt'] - 1 - layout.shared) / layout.chunk)
        reads = math.ceil(job['distinct'] / layout.prompts) * chunks + math.ceil(
            layout.shared / layout.chunk
        )
        bursts = math.ceil(job['requests'] / layout.slots) * job['room'] / scheduler.BURST
        out[job['title']] = reads * took(f'{job["title"]}: prefill') + bursts * took(
            f'{job["title"]}: decode'
        )
    examples = prompt_count(turn) * (_of(turn.pairs, 'count') or 1)
    a_pass = math.ceil(min(examples, turn.max_examples or examples) / shape['examples'])
    if 'reference' in found:
        out['reference'] = a_pass * took('reference')
    out['update'] = min(
        a_pass * _of(turn.train, 'epochs'), _of(turn.train, 'max_steps') or math.inf
    ) * took('update')
    return {
        k: None if math.isnan(v) else v for k, v in (out | {'round': sum(out.values())}).items()
    }


def advice(found: dict, chip: chips.Chip, model: dict) -> list[str]:
    """What to change for each program that does not fit; empty where all do."""
    out = []
    for title, one in ((title, one) for title, one in found.items() if not one['fits']):
        state, ways = sum(one['bytes'].get(k, 0) for k in ('params', 'optimiser')), []
        if state > 0.5 * chip.hbm * GiB:
            narrow = [] if model.get('params') == 'bfloat16' else ['model.params=bfloat16']
            ways += ['raise mesh.fsdp or mesh.tensor (more chips)', *narrow]
            ways += [] if model.get('lora') else ['model.lora=16']
        if ':' in title:
            ways.append(f'fewer slots (of the {"scorer" if "judge" in title else "sampler"})')
        else:
            ways += (
                ['model.remat=full']
                if title == 'update' and model.get('remat', 'none') != 'full'
                else []
            )
            ways += ['model.attention=splash'] if model.get('attention', 'xla') == 'xla' else []
            ways.append('a smaller train.batch or train.row_length')
        out.append(
            f'{title}: {state / GiB:.1f} GiB a device are parameters and optimiser; '
            + ', or '.join(ways)
        )
    return out


# --- the report -------------------------------------------------------------------------------------------------------

NOTES = """GiB a device, of {hbm:.2f} that the compiler grants. MFU: model FLOPs (2 a weight and token forward, 6 in
an update, 4 with LoRA; the head where it is applied; attention, causal counted by half; recomputation not counted) over
the bfloat16 peak, every position of a row counted as a token. Times are predicted, not measured: the compiler's
estimate of its kernels, which has none for sorts and Pallas kernels (splash), loops counted as often as they run, or
the reading of a program's arguments from HBM where that takes longer; then the collectives' bytes over all links at once, nothing overlapped.
A round: prompts of {prompt_tokens} tokens, every response of full length, no host work, loading or saving."""


def show(plan: dict) -> str:
    """The plan as text."""
    gib = lambda n: '–' if n is None else f'{n / GiB:.2f}'
    lines = [
        '{model}: {parameters:,} parameters on {topology}, {mesh}; jax {jax}, libtpu {libtpu}\n'.format(
            **plan
        )
    ]
    columns = 'params', 'optimiser', 'cache', 'arguments', 'temporaries', 'total'
    lines += [f'{"program":24}' + ''.join(f'{c:>12}' for c in columns) + '   fits']
    for title, one in plan['programs'].items():
        cells = ''.join(f'{gib(one["bytes"].get(c)):>12}' for c in columns)
        lines.append(
            f'{title:24}{cells}   '
            + ('yes' if one['fits'] else f'no: {one.get("refused", "too large")}')
        )
    lines += [
        '',
        f'{"program":24}    tokens        ms   kernels  collect.    tokens/s    MFU    PFLOP  compiled',
    ]
    timed = {title: one for title, one in plan['programs'].items() if 'seconds' in one}
    for title, one in timed.items():
        times = ''.join(
            f'{1e3 * one[k]:>10.1f}' for k in ('seconds', 'kernel_seconds', 'collective_seconds')
        )
        lines.append(
            f'{title:24}{one["tokens"]:>10,}{times}{one["tokens_per_s"]:>12,.0f}{one["mfu"]:>7.1%}'
            f'{one["model_flops"] / 1e15:>9.2f}{one["compile_seconds"]:>8.0f} s'
        )
    lines += ['', 'collectives a device, GiB of output (how many):']
    for title, one in timed.items():
        kinds = ', '.join(
            f'{k} {gib(c["bytes"])} ({c["count"]:,.0f})' for k, c in one['collectives'].items()
        )
        odd = f'; {one["unknown_loops"]} loops of unknown length counted once' * bool(
            one['unknown_loops']
        )
        odd += f'; {one["untimed"]} sorts or Pallas kernels not timed' * bool(one['untimed'])
        lines.append(f'  {title}: {kinds or "none"}{odd}')
    stages = ', '.join(
        f'{k} {"?" if v is None else f"{v / 60:,.1f}"}' for k, v in plan['round_seconds'].items()
    )
    lines += ['', f'a round, minutes: {stages}', '', plan['verdict'], '', NOTES.format(**plan)]
    return '\n'.join(lines)


def make(config: dict, name: str, prompt_tokens: int, say=lambda words: None) -> dict:
    """The plan of a config for a topology, as JSON can hold it. Raises ValueError in a sentence."""

    kind, name, devices = chips.devices(name)
    chip, turn, lm = chips.CHIPS[kind], sampling_turn(config), build(config, devices)
    split, count = sharding.row_shards(lm.mesh), lm.mesh.size
    todo = jobs(turn, prompt_tokens, lm.config.max_length)
    for job in todo:
        job['layout'] = lay_out(lm, job, chip)
    shape = batch_shape(
        turn, prompt_tokens, todo[0]['room'] if todo else _of(turn.train, 'row_length'), split
    )
    found = {}
    for title, tokens, flops, lower, sizes in round_programs(lm, turn, todo, shape):
        say(f'compiling {title} …')
        found[title] = examine(lower, chip, count, tokens, flops, sizes)
    changes = advice(found, chip, config['model'])
    idle = f' {len(devices) - count} chips have nothing to do: raise the mesh.' * (
        len(devices) > count
    )
    return {
        'model': config['model']['folder'],
        'parameters': sum(x.size for x in jax.tree.leaves(lm.abstract_params())),
        'topology': name,
        'devices': len(devices),
        'mesh': dict(lm.mesh.shape),
        'hbm': chip.hbm,
        'fits': not changes,
        'prompt_tokens': prompt_tokens,
        'jax': jax.__version__,
        'libtpu': importlib.metadata.version('libtpu'),
        'samples': [job | {'layout': dataclasses.asdict(job['layout'])} for job in todo],
        'batch': shape,
        'programs': found,
        'round_seconds': round_seconds(turn, todo, shape, found),
        'verdict': ('does not fit; change\n  ' + '\n  '.join(changes) if changes else 'fits.')
        + idle,
    }
