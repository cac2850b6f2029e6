"""No part of a shelf is lost: each public function is a part that a config can name, a check, or a
listed helper.
"""

import ast
import importlib
import inspect
import pkgutil

import pytest

from selfrew.running import binding
from selfrew.shelves import evals, losses, optimizers, pairs, prompts, samplers, scorers

SHELVES = {
    'prompts': prompts,
    'sampler': samplers,
    'scorer': scorers,
    'pairs': pairs,
    'loss': losses,
    'optimizer': optimizers,
    'evals': evals,
}
# Public functions that no config names, by the module that defines them.
HELPERS = {
    f'{evals.__name__}.intervals': {'mean_of', 'student', 'wilson'},
    f'{evals.__name__}.judges': {'missing_votes', 'judge_metrics'},
    f'{evals.__name__}.samples': {'judge_samples'},
    f'{losses.__name__}.reported': {'entropies', 'pair_metrics'},
    f'{losses.__name__}.responses': {'is_positive', 'must_read', 'per_token', 'want_responses'},
    scorers.__name__: {'unread_reason'},
    f'{scorers.__name__}.judging': {'shortest_judge_prompt'},
    f'{scorers.__name__}.rules': {'correctness', 'says_nothing', 'was_cut'},
    f'{scorers.__name__}.expected_scores': {'expected_scores'},
    f'{prompts.__name__}.rows': {
        'draw',
        'in_portions',
        'is_on_side',
        'messages_of',
        'read_prompts',
        'with_given',
    },
    f'{samplers.__name__}.plain': {'ends_greedy', 'sample_with'},
    f'{samplers.__name__}.controlled': {'control_of', 'values_of'},
    f'{prompts.__name__}.novelty': {
        'words',
        'lcs_length',
        'rouge_l',
        'is_similar',
        'rejection_reason',
    },
}


def _modules(shelf) -> list:
    """The shelf's module; of a package, its submodules too."""
    paths = getattr(shelf, '__path__', ())
    names = [info.name for info in pkgutil.iter_modules(paths)]
    return [shelf, *(importlib.import_module(f'{shelf.__name__}.{name}') for name in names)]


def _public_functions(module) -> set[str]:
    """The public functions that a module's text defines, decorated ones included."""
    nodes = ast.parse(inspect.getsource(module)).body
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return {name for name in names if not name.startswith('_')}


@pytest.mark.parametrize('key', SHELVES)
def test_every_public_function_of_a_shelf_is_a_part_a_check_or_a_listed_helper(key):
    """A part is lost where its first parameter is not called as the shelf's contract calls it (see
    binding.part_names), or where the package's __init__ does not import it.
    """
    shelf = SHELVES[key]
    parts = set(binding.part_names(key, shelf))
    public = set()
    for module in _modules(shelf):
        functions = _public_functions(module)
        checks = {name for name in functions if name.startswith('check_')}
        helpers = HELPERS.get(module.__name__, set())
        assert helpers <= functions - parts, f'{module.__name__}: a listed helper is gone'
        lost = functions - parts - checks - helpers
        assert not lost, (
            f'{module.__name__}: no config can name {", ".join(sorted(lost))}. Call the first '
            "parameter as the shelf's contract does, and import the function in the package's "
            '__init__; or make it private, or list it in HELPERS'
        )
        not_imported = {name for name in checks if not hasattr(shelf, name)}
        assert not not_imported, f'{shelf.__name__} does not import {not_imported}'
        public |= functions
    assert parts <= public
