"""The flags that all studies of a real model have."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from absl import app, flags

import selfrew
from experiments import study
from experiments.real import figures

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.')
MODEL = flags.DEFINE_string('model', None, 'A folder, hub name or GGUF file.')
DATA = flags.DEFINE_string('data', None, 'The folder with the data sets.')
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run of each arm each.')
DTYPE = flags.DEFINE_string('dtype', 'float32', 'Of the compute.')
ARMS = flags.DEFINE_list('arms', None, 'Which to run; by default those for two cores.')
PROMPTS = flags.DEFINE_integer(
    'prompts', None, 'Training prompts of a run, if not as on two cores.'
)
TUNE = flags.DEFINE_bool('tune', False, 'Instead, try all settings, asked on other prompts.')


def run_study(main: Callable) -> None:
    """Runs a study as a program."""
    # Here and not where they are defined, so that others can import a study without setting them.
    flags.mark_flags_as_required([FOLDER, MODEL, DATA])
    app.run(main)


def model(**fields) -> dict:
    """The model of a config."""
    return {'folder': MODEL.value, 'max_length': 512, 'dtype': DTYPE.value, **fields}


@functools.cache
def untouched() -> figures.Untouched:
    """The model before training."""
    return figures.Untouched(*selfrew.load(MODEL.value, mesh={}))


def seeds() -> list[int]:
    """The seeds of the runs: those of the flag, or the one on which settings are chosen."""
    return [study.TUNING_SEED] if TUNE.value else list(map(int, SEEDS.value))


def arms(known: Iterable[str], on_two_cores: Sequence[str]) -> list[str]:
    """The arms to run: those of the flag, or those that are few enough for two cores.
    UsageError for one that is not among the known.
    """
    names = ARMS.value or on_two_cores
    if unknown := [name for name in names if name not in known]:
        raise app.UsageError(f'--arms: no arm {unknown[0]!r}; there are: {", ".join(known)}')
    return list(names)


def heldout() -> str:
    """The file of prompts that are asked: test, or to choose settings, dev."""
    return 'dev' if TUNE.value else 'test'


def trials(
    rates: Mapping[str, Sequence[float]], on_two_cores: Sequence[str]
) -> list[tuple[str, str, float]]:
    """(name of the run, arm, learning rate) of the arms to run, see `arms`.

    rates: of each arm that there is; the first of them is taken or, to choose one, all.
    """
    names = arms(rates, on_two_cores)
    if TUNE.value:
        return [(f'{name}@{rate:g}', name, rate) for name in names for rate in rates[name]]
    return [(name, name, rates[name][0]) for name in names]
