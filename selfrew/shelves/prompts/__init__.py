"""Where prompts come from. Layer 5. The shelf's contract: (lm, params, key, *, …) -> [Prompt].

`key` is a JAX key of the seed and the turn; the same key gives the same prompts. Responses that
come with a prompt (demonstrations, ranked answers) ride in `meta['responses']`, their grades in
`meta['grades']`.
"""

import jax

from selfrew.shelves.prompts.builtin import demonstrations, ranked, task, verdicts
from selfrew.shelves.prompts.data import check_part, examples, problems, records, trees
from selfrew.shelves.prompts.generated import crossed, judged, self_instruct
from selfrew.types import Prompt

__all__ = [
    'check_part',
    'crossed',
    'demonstrations',
    'examples',
    'judged',
    'mixture',
    'problems',
    'ranked',
    'records',
    'self_instruct',
    'task',
    'trees',
    'verdicts',
]


def mixture(lm, params, key, *, prompts: tuple) -> list[Prompt]:
    """All prompts of several sources, one after the other. Each is an entry of this shelf."""
    return [
        p for i, part in enumerate(prompts) for p in part(lm, params, jax.random.fold_in(key, i))
    ]
