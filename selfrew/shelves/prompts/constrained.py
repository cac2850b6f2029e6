"""Prompts with constraints that a program can check."""

import jax

from selfrew.mesh import keys
from selfrew.tasks import constraints
from selfrew.types import Prompt


def _check_counts(*, least: int = 1, most: int = 2, kinds: tuple | None = None, **_) -> None:
    names = tuple(constraints.KINDS) if kinds is None else kinds
    constraints.check_kinds(names)
    groups = constraints.groups_of(names)
    if not least <= most <= len(groups):
        raise ValueError(
            f'constrained: least={least}, most={most}: want least <= most <= {len(groups)}, since '
            f'the kinds are of the groups {", ".join(groups)}'
        )


def constrained(
    lm, params, key, *, prompts, least: int = 1, most: int = 2, kinds: tuple | None = None
) -> list[Prompt]:
    """Prompts with constraints that a program checks; see tasks.constraints and the scorer
    `constraints`.

    Each has `least` to `most` of them, of kinds that do not contradict each other. They depend on
    the key and the prompt's id alone.

    Args:
      kinds: names of the kinds that may be drawn; None: all.
    Raises ValueError for an unknown kind, or where `most` are more than there are groups of kinds.
    """
    names = tuple(constraints.KINDS) if kinds is None else kinds
    _check_counts(least=least, most=most, kinds=names)
    k_prompts, k_draw = jax.random.split(key)
    constrained_prompts = []
    for prompt in prompts(lm, params, k_prompts):
        rng = keys.numpy_rng(keys.fold_name(k_draw, prompt.id))
        count = int(rng.integers(least, most + 1))
        drawn = constraints.draw(rng, names, count, prompt.text)
        constrained_prompts.append(constraints.constrained(prompt, drawn))
    return constrained_prompts


setattr(constrained, 'check_options', _check_counts)  # noqa: B010 (read by running.binding)
