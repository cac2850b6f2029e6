"""How responses are made. The shelf's contract: (lm, params, prompts, key, *, …) -> [Rollout].

Prompts that do not fit into the context have no rollout; the loop counts them.
Import from it: the parts below; `samplers` is imported whole.
It imports: types, mesh, tasks, engine.
"""

from selfrew.shelves.samplers.controlled import (
    OWN,
    best_of_n,
    blockwise,
    check_values,
    tokenwise,
    values_of,
)
from selfrew.shelves.samplers.plain import disputed, ends_greedy, given, sample, with_greedy

__all__ = [
    'OWN',
    'best_of_n',
    'blockwise',
    'check_values',
    'disputed',
    'ends_greedy',
    'given',
    'sample',
    'tokenwise',
    'values_of',
    'with_greedy',
]
