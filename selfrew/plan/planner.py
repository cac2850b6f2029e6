"""The plan of a config: whether it fits on a TPU topology, and how long a round takes."""

import dataclasses
import importlib.metadata
import os
from collections.abc import Callable

import jax

from selfrew.engine import sampling_layout, update_memory
from selfrew.mesh import memory, sharding
from selfrew.models import attention, decoder, hf, language_model, text
from selfrew.plan import chips, jobs, lowering, prediction, summary, training
from selfrew.running.config import model_describer


def make(
    config: dict,
    topology: str,
    prompt_tokens: int,
    report: Callable[[str], None] = lambda message: None,
    response: jobs.Lengths | None = None,
) -> dict:
    """The plan of a config for a topology (see chips.topology), as JSON can hold it.

    prompt_tokens: the assumed length of prompts. response: that of responses; None: all are as long
    as they may be. report: called with each step's message.
    Raises ValueError for a config, mesh or topology that cannot be planned.
    """
    kind, topology, devices = chips.devices(topology)
    chip, turn, lm = chips.CHIPS[kind], jobs.sampling_turn(config), build_lm(config, devices)
    measured = jobs.evaluation_jobs(config, turn, prompt_tokens, lm.config.max_length, response)
    limit = int(update_memory.SHARE * chip.hbm_gib * jobs.GiB)
    sampling = sampling_layout.sampling_lm(lm, chip.hbm_gib * jobs.GiB)
    lm, planned, shape, about = _size_arrays(
        config, lm, sampling, turn, prompt_tokens, response, chip.hbm_gib, limit
    )
    evaluated = [(job, jobs.plan_memory(sampling, job, chip.hbm_gib)) for job in measured]
    programs = [*lowering.round_programs(lm, sampling, turn, planned + evaluated, shape)]
    if (rehearsal := jobs.rehearsal_of(config, turn)) is not None:
        split, rehearsal_shape = split_update(lm, rehearsal, [], prompt_tokens, limit)
        recomputing = update_memory.with_remat(lm, split.remat)
        update = lowering.update_program(recomputing, rehearsal, rehearsal_shape)
        programs.append(update._replace(title='rehearsal'))
    results, cache = {}, prediction.Cache(topology)
    for program in programs:
        report(f'compiling {program.title} …')
        results[program.title] = prediction.compile_and_predict(
            program, chip, lm.mesh.size, cache=cache
        )
    copied = 0 if sampling is lm else sampling_layout.weight_bytes(sampling)
    changes = summary.advice(results, chip, config['model'])
    verdict = 'does not fit; change\n  ' + '\n  '.join(changes) if changes else 'fits.'
    if (idle := len(devices) - lm.mesh.size) > 0:
        verdict += f' {idle} chips have nothing to do: raise the mesh.'
    return about | {
        'topology': topology,
        'devices': len(devices),
        'hbm_gib': chip.hbm_gib,
        'fits': not changes,
        'libtpu': importlib.metadata.version('libtpu'),
        'evaluations': [dataclasses.asdict(job) for job in measured],
        'programs': results,
        'round_seconds': prediction.round_seconds(
            turn,
            planned,
            shape,
            results,
            copy_seconds=copied / chip.ici,
            evaluated=evaluated,
            rehearsal=rehearsal,
        ),
        'verdict': verdict,
    }


def _size_arrays(
    config: dict,
    lm,
    sampling_lm,
    turn,
    prompt_tokens: int,
    response: jobs.Lengths | None,
    device_gib: float,
    limit: int,
):
    """(lm as it recomputes, planned jobs, shape of an update, what the plan says of these), as a
    run chooses them where the config leaves them open.

    sampling_lm: the model on the mesh that it samples on. device_gib: the memory of a device.
    limit: bytes of it that an update may take.
    """
    sampling = jobs.sampling_jobs(turn, prompt_tokens, lm.config.max_length, response)
    planned = [(job, jobs.plan_memory(sampling_lm, job, device_gib)) for job in sampling]
    split, shape = split_update(lm, turn, sampling, prompt_tokens, limit)
    about = {
        'model': config['model']['folder'],
        'parameters': sum(x.size for x in jax.tree.leaves(lm.abstract_params())),
        'mesh': dict(lm.mesh.shape),
        'sampling_mesh': dict(sampling_lm.mesh.shape),
        'prompt_tokens': prompt_tokens,
        'response_tokens': response,
        'jax': jax.__version__,
        'samples': [
            dataclasses.asdict(job) | {'layout': dataclasses.asdict(sizes)}
            for job, sizes in planned
        ],
        'batch': dataclasses.asdict(shape),
        'update': split._asdict(),
    }
    return update_memory.with_remat(lm, split.remat), planned, shape, about


def split_update(lm, turn, sampling: list[jobs.Job], prompt_tokens: int, limit: int):
    """(How an update is split, its shape), as a run chooses them.

    sampling: what the turn samples. limit: bytes of a device that an update may take.
    """
    shards = sharding.row_shards(lm.mesh)
    lengths = training.example_lengths(turn, sampling, prompt_tokens)

    def pack(micros: int) -> tuple[int, int, int]:
        shape = training.batch_shape(turn, *lengths, shards, micros)
        return shape.rows, shape.length, shape.selected

    optimizer = turn.train.keywords['optimizer']
    accumulate = jobs.argument(turn.train, 'accumulate')
    split = update_memory.choose(lm, optimizer, pack, accumulate=accumulate, limit=limit)
    return split, training.batch_shape(turn, *lengths, shards, split.accumulate)


def make_here(
    config: dict, prompt_tokens: int, report: Callable[[str], None] = lambda message: None
) -> dict:
    """The plan of a config for the devices of this machine: what memory each program takes.

    The arguments are those of `make`, and so are the errors.
    """
    lm, turn = build_lm(config, jax.devices()), jobs.sampling_turn(config)
    device = lm.mesh.local_devices[0]
    gib, limit = memory.device_bytes(device) / jobs.GiB, update_memory.budget(device)
    sampling = sampling_layout.sampling_lm(lm)
    lm, planned, shape, about = _size_arrays(
        config, lm, sampling, turn, prompt_tokens, None, gib, limit
    )
    results = {}
    for program in lowering.round_programs(lm, sampling, turn, planned, shape):
        report(f'compiling {program.title} …')
        needed = prediction.memory_bytes(program.lower().compile())
        total = sum(needed.values())
        taken = program.bytes | needed | {'total': total}
        results[program.title] = {'bytes': taken, 'fits': total <= gib * jobs.GiB}
    return about | {
        'device': device.device_kind,
        'memory_gib': gib,
        'fits': all(result['fits'] for result in results.values()),
        'programs': results,
    }


def build_lm(config: dict, devices) -> language_model.Lm:
    """The Lm of a config over these devices, without parameters and tokenizer.

    Raises ValueError for a model or mesh that cannot be built.
    """
    bound = model_describer(config)
    fields = {**(bound.func.__kwdefaults__ or {}), **bound.keywords}
    shape, folder, max_length = fields['shape'], fields['folder'], fields['max_length']
    if shape:
        model_config = hf.config_of(shape, 'model.shape', max_length)
    elif folder == 'tiny' or os.path.exists(folder):
        model_config = hf.read_config(language_model.resolve_folder(folder), max_length)
    else:
        raise ValueError(
            f'no model folder {folder!r} here, and a plan downloads nothing; give model.shape'
        )
    switches = {name: fields[name] for name in ('lora', 'lora_alpha', 'value_head')}
    model_config = dataclasses.replace(model_config, **switches)
    if fields['adapter']:
        adapter = language_model.resolve_folder(fields['adapter'])
        model_config = language_model.with_adapter(adapter, model_config)
    mesh = sharding.make_mesh(*[fields[axis] for axis in sharding.AXES], devices=devices)
    module = decoder.make_module(
        model_config,
        fields['dtype'],
        attention=fields['attention'] or attention.default_backend(model_config, mesh),
        remat=fields['remat'] or 'none',
        mesh=mesh,
    )
    no_tokenizer = text.Text(None, bos=1, eos=2, pad=0, stop_tokens=(2,))
    return language_model.Lm(
        module,
        no_tokenizer,
        mesh,
        param_dtype=fields['params'],
        cache=fields['cache'],
        cache_gib=fields['cache_gib'],
        has_fixed_remat=fields['remat'] is not None,
        sampling=fields['sampling'],
        sampling_dtype=fields['sampling_dtype'],
    )
