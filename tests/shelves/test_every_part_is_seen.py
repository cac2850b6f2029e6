"""No function on a shelf is overlooked: each is a part, a check of a field, or a known helper."""

import inspect
import pkgutil

import pytest

from selfrew.run import binding
from selfrew.shelves import evals

SHELVES = {key: shelf for key, shelf in binding.SHELVES.items() if key != 'train'}
SHELVES['evals'] = evals
HELPERS = {
    'correctness',  # of one response, for exact_answer
    'expected_scores',
    'wilson',
    'missing_votes',
    'judge_metrics',
    # Self-Instruct's filters
    'words',
    'lcs_length',
    'rouge_l',
    'is_similar',
    'rejection_reason',
}


def _modules(shelf):
    """The shelf and, if it is a package, its modules."""
    yield shelf
    for module in pkgutil.iter_modules(getattr(shelf, '__path__', [])):
        yield getattr(shelf, module.name)


def _public_functions(module):
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__ and not name.startswith('_'):
            yield name


@pytest.mark.parametrize('key', SHELVES)
def test_a_public_function_of_a_shelf_is_a_part_or_a_known_helper(key):
    """Else its first parameter is not called as the contract says, or a package does not import it,
    and no config could name it.
    """
    shelf = SHELVES[key]
    public = {name for module in _modules(shelf) for name in _public_functions(module)}
    checks = {name for name in public if name.startswith('check_')}
    assert public - checks - HELPERS == set(binding.part_names(key, shelf))
