"""Finds the layouts with which a round of a config is fastest on a topology.

An update and sampling have layouts of their own, so that each is sought alone: the mesh of an
update and what it recomputes, then the `tensor` of the mesh that is sampled on. Layouts are ordered
by a bound (`_update_bound`), and the most promising ones are compiled.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from selfrew.engine import sampling_layout, update_memory
from selfrew.mesh import sharding
from selfrew.plan import chips, jobs, lowering, planner, prediction, training

COMPILED = 4  # updates that are compiled, and layouts for sampling
MOST_TENSOR = 16


class Layout(NamedTuple):
    """One candidate, and what its programs take in a round."""

    fields: dict[str, Any]  # of the config: mesh.fsdp, mesh.tensor, model.remat; or mesh.sampling
    seconds: float  # of the round's updates and reference passes, or of all that it samples
    programs: dict  # by title, see prediction.compile_and_predict

    @property
    def overrides(self) -> str:
        """The flags that set it."""
        return ' '.join(f'--config.{name}={value}' for name, value in self.fields.items())


def search(
    config: dict, topology: str, prompt_tokens: int, report: Callable[[str], None]
) -> dict[str, list[Layout]]:
    """The layouts that fit, 'update' and 'sampling', each the fastest first.

    The arguments are those of planner.make, and so are the errors; ValueError also where nothing
    fits.
    """
    kind, topology, devices = chips.devices(topology)
    chip, turn = chips.CHIPS[kind], jobs.sampling_turn(config)
    cache = prediction.Cache(topology)
    found = {
        'update': _updates(config, devices, chip, turn, prompt_tokens, report, cache),
        'sampling': _samplings(config, devices, chip, turn, prompt_tokens, report, cache),
    }
    for title, layouts in found.items():
        if not layouts and (title == 'update' or jobs.sampling_jobs(turn, prompt_tokens, 2**20)):
            raise ValueError(f'{title}: no layout fits {topology}; try more chips, or adapters')
    return {
        title: sorted(layouts, key=lambda layout: layout.seconds)
        for title, layouts in found.items()
    }


def search_chips(
    config: dict, count: int, prompt_tokens: int, report: Callable[[str], None]
) -> dict[str, dict[str, list[Layout]] | str]:
    """Topology -> what `search` finds on so many chips of each kind, or why there is nothing.

    Raises ValueError for a number that is not a power of two, and where no kind has a layout.
    """
    if count & (count - 1):
        raise ValueError(f'chips={count}: want a power of two')
    names = [f'{kind}-{count * chip.cores}' for kind, chip in chips.CHIPS.items()]
    found: dict[str, dict[str, list[Layout]] | str] = {}
    for name in [':'.join(chips.topology(name)) for name in names]:
        report(f'--- {name}')
        try:
            found[name] = search(config, name, prompt_tokens, report)
        except ValueError as problem:
            reason = str(problem)
            found[name] = reason
            report(reason)
    if all(isinstance(layouts, str) for layouts in found.values()):
        raise ValueError(f'nothing fits {count} chips; {"; ".join(map(str, found.values()))}')
    return found


# --- updates --------------------------------------------------------------------------------------


def _updates(config, devices, chip, turn, prompt_tokens, report, cache) -> list[Layout]:
    """The most promising meshes for updates that fit, compiled."""
    candidates = []
    for lm in _training_models(config, devices):
        split, shape = _update_of(config, lm, turn, prompt_tokens, chip)
        if split.needed <= split.limit:
            bound = _update_bound(lm, chip, shape)
            candidates.append((bound, len(candidates), lm, split, shape))
    layouts = []
    for _, _, lm, split, shape in sorted(candidates, key=lambda c: c[:2])[:COMPILED]:
        mesh = lm.mesh.shape
        fields = {f'mesh.{axis}': mesh[axis] for axis in ('fsdp', 'tensor')}
        fields |= {'model.remat': split.remat}
        lm = update_memory.with_remat(lm, split.remat)
        results = _compile(
            lowering.round_programs(lm, lm, turn, [], shape), chip, lm, report, cache
        )
        if all(result['fits'] for result in results.values()):
            seconds = prediction.round_seconds(turn, [], shape, results)['round']
            layouts.append(Layout(fields, seconds, results))
    return layouts


def _training_models(config, devices) -> Iterator:
    """The model on each mesh of all devices that it can be laid out on, with remat left open."""
    count = len(devices)
    for tensor in (size for size in range(1, MOST_TENSOR + 1) if count % size == 0):
        mesh = {'data': 1, 'fsdp': count // tensor, 'tensor': tensor}
        changed = config | {
            'mesh': config['mesh'] | mesh,
            'model': config['model'] | {'remat': None},
        }
        lm = planner.build_lm(changed, devices)
        if lm.config.heads % tensor == 0:
            yield lm


def _update_of(config, lm, turn, prompt_tokens: int, chip):
    """(how an update is split, its shape), as planner.make chooses them."""
    limit = int(update_memory.SHARE * chip.hbm_gib * jobs.GiB)
    sampling = jobs.sampling_jobs(turn, prompt_tokens, lm.config.max_length)
    return planner.split_update(lm, turn, sampling, prompt_tokens, limit)


def _update_bound(lm, chip: chips.Chip, shape: training.BatchShape) -> float:
    """Seconds of an update at least: its FLOPs at peak, padding rows included, and its collectives:
    weights gathered for two passes and gradients summed over `fsdp`, activations summed four times
    a layer over `tensor`.
    """
    c, mesh = lm.config, lm.mesh.shape
    rows = shape.rows * shape.micros
    flops = 3 * lowering.forward_flops(lm, dataclasses.replace(shape, rows=rows))
    weights = 2 * sum(x.size for x in jax.tree.leaves(lm.abstract_params()))
    gathered = 4 * weights / mesh['tensor'] * (1 - 1 / mesh['fsdp']) * shape.micros
    tokens = rows / sharding.row_shards(lm.mesh) * shape.length
    summed = 8 * c.layers * tokens * c.width * 2 * (1 - 1 / mesh['tensor'])
    return flops / lm.mesh.size / chip.peak + (gathered + summed) / chip.ici


# --- sampling -------------------------------------------------------------------------------------


def _samplings(config, devices, chip, turn, prompt_tokens, report, cache) -> list[Layout]:
    """The layouts for sampling whose weights fit, from the narrowest on, compiled."""
    lm, layouts = planner.build_lm(config, devices), []
    context = lm.config.max_length
    sizes = [n for n in range(1, MOST_TENSOR + 1) if lm.mesh.size % n == 0]
    limit = update_memory.SHARE * chip.hbm_gib * jobs.GiB
    models = [(tensor, _with_sampling(lm, tensor)) for tensor in sizes]
    fitting = [pair for pair in models if sampling_layout.weight_bytes(pair[1]) < limit]
    for tensor, sampling in fitting[:COMPILED]:
        try:
            planned = [
                (job, jobs.plan_memory(sampling, job, chip.hbm_gib))
                for job in jobs.sampling_jobs(turn, prompt_tokens, context)
            ]
        except ValueError:  # no room for a slot
            continue
        programs = lowering.sampling_programs(sampling, planned)
        results = _compile(programs, chip, sampling, report, cache)
        if results and all(result['fits'] for result in results.values()):
            seconds = prediction.sampling_seconds(planned, results)
            layouts.append(Layout({'mesh.sampling': tensor}, sum(seconds.values()), results))
    return layouts


def _with_sampling(lm, tensor: int):
    return sampling_layout.sampling_lm(dataclasses.replace(lm, sampling=tensor))


def _compile(programs, chip, lm, report, cache) -> dict:
    """By title what each program takes, see prediction.compile_and_predict."""
    results = {}
    mesh = ', '.join(f'{axis} {size}' for axis, size in lm.mesh.shape.items() if size > 1)
    for program in programs:
        report(f'compiling {program.title} on {mesh} …')
        results[program.title] = prediction.compile_and_predict(
            program, chip, lm.mesh.size, cache=cache
        )
        if not results[program.title]['fits']:
            break
    return results


# --- text -----------------------------------------------------------------------------------------


def as_text(found: dict[str, list[Layout]]) -> str:
    """The layouts, the fastest first, with what limits their programs."""
    lines = []
    for title, layouts in found.items():
        for number, layout in enumerate(layouts):
            name = title if number == 0 else ''
            minutes = layout.seconds / 60
            lines.append(f'{name:10} {minutes:>9,.1f} min a round   {layout.overrides}')
            for program, result in layout.programs.items():
                wire = result['collective_seconds'] / result['seconds']
                lines.append(
                    f'{"":24}{program:18}{result["tokens_per_s"]:>10,.0f} tokens/s, '
                    f'{result["bound_fraction"]:.0%} of the bound ({result["bound_by"]}), '
                    f'{wire:.0%} collectives, {result["bytes"]["total"] / jobs.GiB:.1f} GiB'
                )
    lines.append(f'the fastest, {_fastest(found)}')
    return '\n'.join(lines)


def chips_as_text(by_topology: dict[str, dict[str, list[Layout]] | str]) -> str:
    """What `search_chips` found: `as_text` of each topology, then a line for each, the fastest
    first.
    """
    searched = {name: found for name, found in by_topology.items() if not isinstance(found, str)}
    parts = [f'{name}\n\n{as_text(found)}\n' for name, found in searched.items()]
    in_order = sorted(searched, key=lambda name: _seconds(searched[name]))
    lines = [f'{name}: {_fastest(searched[name])}' for name in in_order]
    lines += [f'{name}: {reason}' for name, reason in by_topology.items() if name not in searched]
    return '\n'.join([*parts, *lines])


def _seconds(found: dict[str, list[Layout]]) -> float:
    """Of a round with the fastest layouts."""
    return math.fsum(layouts[0].seconds for layouts in found.values() if layouts)


def _fastest(found: dict[str, list[Layout]]) -> str:
    overrides = ' '.join(layouts[0].overrides for layouts in found.values() if layouts)
    return f'{_seconds(found) / 60:,.1f} minutes a round: {overrides}'
