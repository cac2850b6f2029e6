"""Contract of the shelf: (lm, params, key, *, …) -> [Prompt]. Where prompts come from.

`key` is a JAX key of the seed and the turn; the same key gives the same prompts. Responses that
come with a prompt (demonstrations, ranked answers) are in `meta['responses']`, their grades in
`meta['grades']`.
Import from it: the parts below; `prompts` is imported whole.
It imports: types, mesh, models, tasks, engine.
"""

import jax

from selfrew.shelves.prompts.builtin import demonstrations, ranked, task, verdicts
from selfrew.shelves.prompts.constrained import constrained
from selfrew.shelves.prompts.data import (
    PARTS,
    check_part,
    examples,
    judgements,
    problems,
    records,
    trees,
)
from selfrew.shelves.prompts.generated import crossed, judged, self_instruct
from selfrew.shelves.prompts.preferences import preferences
from selfrew.shelves.prompts.rows import check_portion
from selfrew.tasks.hashing import with_distinct_ids
from selfrew.types import Prompt

__all__ = [
    'PARTS',
    'check_part',
    'check_portion',
    'constrained',
    'crossed',
    'demonstrations',
    'examples',
    'judged',
    'judgements',
    'mixture',
    'preferences',
    'problems',
    'ranked',
    'records',
    'self_instruct',
    'task',
    'trees',
    'verdicts',
]


def mixture(lm, params, key, *, prompts: tuple) -> list[Prompt]:
    """All prompts of several entries of this shelf, one entry after the other, each with a key of
    its own.

    An id that an earlier entry has gets the entry's number added, which is logged.
    """
    placed = []
    for i, source in enumerate(prompts):
        made = source(lm, params, jax.random.fold_in(key, i))
        placed += [(f'entry {i}', prompt) for prompt in made]
    return with_distinct_ids(placed, 'mixture', 'occur in more than one entry')
