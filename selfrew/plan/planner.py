"""The plan of a config: whether it fits on a TPU topology, and how long a round takes."""

import dataclasses
import importlib.metadata
import os
from collections.abc import Callable

import jax

from selfrew.engine import train_state, update_memory
from selfrew.mesh import memory, sharding
from selfrew.models import decoder, hf, language_model, text
from selfrew.plan import chips, jobs, lowering, prediction, summary
from selfrew.run.config import model_describer


def make(
    config: dict,
    topology: str,
    prompt_tokens: int,
    report: Callable[[str], None] = lambda message: None,
) -> dict:
    """The plan of a config for a topology (see chips.topology), as JSON can hold it.

    prompt_tokens: the assumed length of prompts. report: called with each step's message.
    Raises ValueError for a config, mesh or topology that cannot be planned.
    """
    kind, topology, devices = chips.devices(topology)
    chip, turn, lm = chips.CHIPS[kind], jobs.sampling_turn(config), build_lm(config, devices)
    sampling = jobs.sampling_jobs(turn, prompt_tokens, lm.config.max_length)
    measured = jobs.evaluation_jobs(config, turn, prompt_tokens, lm.config.max_length)
    planned = [(job, jobs.plan_memory(lm, job, chip.hbm_gib)) for job in sampling]
    lengths = jobs.example_lengths(turn, sampling, prompt_tokens)
    limit = int(update_memory.SHARE * chip.hbm_gib * jobs.GiB)
    lm, shape, split = choose_update(lm, turn, lengths, limit)
    results = {}
    for program in lowering.round_programs(lm, turn, planned, shape):
        report(f'compiling {program.title} …')
        results[program.title] = prediction.compile_and_predict(program, chip, lm.mesh.size)
    changes = summary.advice(results, chip, config['model'])
    verdict = 'does not fit; change\n  ' + '\n  '.join(changes) if changes else 'fits.'
    if (idle := len(devices) - lm.mesh.size) > 0:
        verdict += f' {idle} chips have nothing to do: raise the mesh.'
    return {
        'model': config['model']['folder'],
        'parameters': sum(x.size for x in jax.tree.leaves(lm.abstract_params())),
        'topology': topology,
        'devices': len(devices),
        'mesh': dict(lm.mesh.shape),
        'hbm_gib': chip.hbm_gib,
        'fits': not changes,
        'prompt_tokens': prompt_tokens,
        'jax': jax.__version__,
        'libtpu': importlib.metadata.version('libtpu'),
        'samples': [
            dataclasses.asdict(job) | {'layout': dataclasses.asdict(sizes)}
            for job, sizes in planned
        ],
        'evaluations': [dataclasses.asdict(job) for job in measured],
        'batch': dataclasses.asdict(shape),
        'update': split._asdict(),
        'programs': results,
        'round_seconds': prediction.round_seconds(turn, planned, shape, results),
        'verdict': verdict,
    }


def choose_update(lm, turn, lengths: tuple[int, int], limit: int):
    """(lm, shape of an update, its split): what a run chooses where the config leaves it open.

    lengths: tokens of an example's prompt and of each response. limit: bytes of a device.
    """
    shards = sharding.row_shards(lm.mesh)

    def shape_of(micros: int) -> jobs.BatchShape:
        return jobs.batch_shape(turn, *lengths, shards, micros)

    def pack(micros: int) -> tuple[int, int, int]:
        shape = shape_of(micros)
        return shape.rows, shape.length, shape.selected

    split = update_memory.choose(
        lm,
        train_state.cached_optimizer(turn.train.keywords['optimizer']),
        pack,
        accumulate=jobs.argument(turn.train, 'accumulate'),
        remat=lm.module.remat if lm.has_fixed_remat else None,
        limit=limit,
    )
    return update_memory.with_remat(lm, split.remat), shape_of(split.accumulate), split


def make_here(
    config: dict, prompt_tokens: int, report: Callable[[str], None] = lambda message: None
) -> dict:
    """The plan of a config for the devices of this machine: what memory each program takes.

    The arguments are those of `make`, and so are the errors.
    """
    lm, turn = build_lm(config, jax.devices()), jobs.sampling_turn(config)
    device = lm.mesh.local_devices[0]
    gib = memory.device_bytes(device) / jobs.GiB
    sampling = jobs.sampling_jobs(turn, prompt_tokens, lm.config.max_length)
    planned = [(job, jobs.plan_memory(lm, job, gib)) for job in sampling]
    lengths = jobs.example_lengths(turn, sampling, prompt_tokens)
    lm, shape, split = choose_update(lm, turn, lengths, update_memory.budget(device))
    results = {}
    for program in lowering.round_programs(lm, turn, planned, shape):
        report(f'compiling {program.title} …')
        needed = prediction.memory_bytes(program.lower().compile())
        total = sum(needed.values())
        taken = program.bytes | needed | {'total': total}
        results[program.title] = {'bytes': taken, 'fits': total <= gib * jobs.GiB}
    return {
        'model': config['model']['folder'],
        'parameters': sum(x.size for x in jax.tree.leaves(lm.abstract_params())),
        'device': device.device_kind,
        'mesh': dict(lm.mesh.shape),
        'memory_gib': gib,
        'fits': all(result['fits'] for result in results.values()),
        'prompt_tokens': prompt_tokens,
        'jax': jax.__version__,
        'samples': [
            dataclasses.asdict(job) | {'layout': dataclasses.asdict(sizes)}
            for job, sizes in planned
        ],
        'batch': dataclasses.asdict(shape),
        'update': split._asdict(),
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
    model_config = dataclasses.replace(
        model_config, lora=fields['lora'], lora_alpha=fields['lora_alpha']
    )
    if fields['adapter']:
        adapter = language_model.resolve_folder(fields['adapter'])
        model_config = language_model.with_adapter(adapter, model_config)
    mesh = sharding.make_mesh(*[fields[axis] for axis in sharding.AXES], devices=devices)
    module = decoder.make_module(
        model_config,
        fields['dtype'],
        attention=fields['attention'],
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
    )
