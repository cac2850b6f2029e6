"""Takes finished stages from another run, where its config made them as this run's would.

A run that changes only the scorer, the pairs, the loss or the training of another one then samples
nothing again.
"""

import os

from selfrew.engine.run_files import PUT_BACK, read_json, write_atomic
from selfrew.mesh import processes
from selfrew.running import stage
from selfrew.running.config import turns_of
from selfrew.shelves import samplers

STAGES = 'prompts', 'rollouts', 'judgements'
WORDS = dict(zip(STAGES, ('prompts', 'sampler', 'scorer')))  # stage -> the word that makes it
AFTER_SCORES = (
    'pairs',
    'loss',
    'train',
    'max_examples',
    'balance',
    'earlier',
    'optimizer_state',
)  # fields of a turn
BASE = '00'  # the folder of the evaluations before training
# Fields of `model` that change no sample: of the first turn, whose adapters change nothing yet, and
# of a later one.
FREE_AT_FIRST = {'remat', 'cache_gib', 'lora', 'lora_alpha'}
FREE_LATER = {'remat', 'cache_gib'}


def check(source: str, config: dict) -> None:
    """Raises ValueError if `source` is no run, or if not even the rollouts of its first turn are
    what `config` would make, with the difference. Where the first turn of `config` samples nothing,
    it is enough that the evaluations before training are.
    """
    other = processes.on_main(lambda: _read_config(source))
    if difference := _model_difference(other, config, FREE_AT_FIRST):
        raise ValueError(f'nothing can be taken from {source}: {difference}')
    turns, old_turns = turns_of(config), turns_of(other)
    if not turns or not old_turns:
        raise ValueError(f'nothing can be taken from {source}: one of both has no rounds')
    old = old_turns[0]
    for word in ('prompts', 'sampler'):
        new_part, old_part = getattr(turns[0], word), getattr(old, word)
        if new_part is not old_part:
            samples = turns[0].sampler.func is not samplers.given
            if not samples and config['evals'] and _has_base_evaluations(source, other, config):
                return
            raise ValueError(
                f'nothing can be taken from {source}: its turn {old.name} differs in {word}: '
                f'{_shown(old_part)}, here {_shown(new_part)}'
            )
    if not stage.Folder(source, old.name).has('rollouts'):
        raise ValueError(
            f'nothing can be taken from {source}: the samples of its turn {old.name} are not '
            f'finished'
        )


def take(workdir: str, source: str, config: dict) -> list[str]:
    """Copies into `workdir` the stages of the run `source` that `config` would make alike.

    Of each turn, as long as all before it are alike: its prompts, then its rollouts if the sampler
    is the same, then its judgements if the scorer is. Those that `workdir` has are left as they
    are. The evaluations before training are taken where all are the same. The manifests record
    where a stage came from. Every process calls this.

    Returns a line for each turn of which something was taken.
    Raises ValueError as `check` does, or if a stage of `source` was changed.
    """
    check(source, config)
    if processes.on_main(lambda: os.path.realpath(source) == os.path.realpath(workdir)):
        raise ValueError(f'--from={source} is the run itself')
    other = processes.on_main(lambda: _read_config(source))
    lines = _take_base_evaluations(workdir, source, other, config)
    free = FREE_AT_FIRST
    for turn, old in zip(turns_of(config), turns_of(other)):
        if _model_difference(other, config, free):
            break
        old_pipelines = {pipeline.title: pipeline for pipeline in old.pipelines}
        for pipeline in turn.pipelines:
            if pipeline.title in old_pipelines:
                taken = _take_pipeline(workdir, source, pipeline, old_pipelines[pipeline.title])
                if taken:
                    lines.append(f'turn {pipeline.name}: {", ".join(taken)} of {source}')
        if not _is_alike(turn, old):
            break
        free = FREE_LATER
    processes.on_main(lambda: _copy_start(workdir, source))
    return lines


def _read_config(source: str) -> dict:
    path = os.path.join(source, 'config.json')
    try:
        return read_json(path, PUT_BACK)
    except FileNotFoundError:
        raise ValueError(f'--from={source} is not a run: it has no config.json') from None


def _model_difference(old: dict, new: dict, free: set[str]) -> str | None:
    """The first difference between two configs in what any sample depends on."""
    for name in ('seed', 'model'):
        before, after = old[name], new[name]
        if name == 'model':
            before = {field: x for field, x in before.items() if field not in free}
            after = {field: x for field, x in after.items() if field not in free}
        for field, was, wanted in stage.differences(before, after, name):
            return f'its {field} is {was!r}, here {wanted!r}'
    return None


def _take_pipeline(workdir: str, source: str, pipeline, old) -> list[str]:
    """The stages of a pipeline that were taken, or that an earlier start of this run has taken.

    Equal entries of two configs are bound to the same object.
    """
    taken = []
    folder = stage.Folder(workdir, pipeline.name)
    old_folder = stage.Folder(source, old.name)
    for name in STAGES:
        word = WORDS[name]
        if getattr(pipeline, word) is not getattr(old, word) or not old_folder.has(name):
            break
        if not folder.has(name):
            folder.copy_stage(name, old_folder)
        if 'from' not in folder.manifest[name]:
            break  # made here
        taken.append(name)
    return taken


def _shown(part) -> str:
    fields = ', '.join(f'{name}={value!r}' for name, value in part.keywords.items())
    return f'{part.func.__name__}({fields})'[:300]


def _is_alike(turn, old) -> bool:
    """Whether two turns leave the same parameters behind."""
    pipelines = list(zip(turn.pipelines, old.pipelines))
    return len(turn.pipelines) == len(old.pipelines) and all(
        getattr(new, field) == getattr(before, field)
        for new, before in pipelines
        for field in (*WORDS.values(), *AFTER_SCORES)
    )


def _has_base_evaluations(source: str, old: dict, config: dict) -> bool:
    """Whether the run `source`, of the config `old`, has finished the evaluations before training
    of `config`.
    """
    is_same = stage.json_bytes(old['evals']) == stage.json_bytes(config['evals'])
    return is_same and stage.Folder(source, BASE).has_json('evals')


def _take_base_evaluations(workdir: str, source: str, old: dict, config: dict) -> list[str]:
    """Takes the evaluations of the model before training, if they are the same."""
    folder, old_folder = stage.Folder(workdir, BASE), stage.Folder(source, BASE)
    if not _has_base_evaluations(source, old, config) or folder.has('evals'):
        return []
    for name in config['evals'] or {}:
        folder.copy_stage(f'eval_{name}', old_folder)
    path = os.path.join(old_folder.path, 'evals.json')
    metrics = processes.on_main(lambda: read_json(path, PUT_BACK))
    sha256 = folder.write_json('evals.json', metrics)
    folder.mark_done('evals', {'from': os.path.abspath(old_folder.path), 'sha256': sha256})
    return [f'turn {BASE}: evaluations of {source}']


def _copy_start(workdir: str, source: str) -> None:
    """Gives the run the date that the samples were made with, unless it has one."""
    target, path = (os.path.join(folder, 'started.json') for folder in (workdir, source))
    if os.path.exists(path) and not os.path.exists(target):
        with open(path, 'rb') as file:
            write_atomic(target, file.read())
