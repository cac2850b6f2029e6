"""Losses. The shelf's contract: (out, batch, key, *, …) -> (loss_B, metrics).

`out.logp` [B N] are summed log-probabilities, best response first; `batch.ref_logp` [B N] those of
the reference. `loss_B` is the loss of each example; the train step takes its mean over B once,
weighted by `batch.weight`. `metrics` are [B] arrays, averaged without the weights. A loss is a pure
function of its arguments; `key` is for losses that draw.

A loss requests an optional field of `out` by a keyword argument with the field's name: `entropy`,
`contrast`, `token_logp`, which batch.ref_token_logp comes with, `value`, or `expect`, which `value`
comes with. A value that is not 0, False or None says how the field is computed (logprobs.measure);
otherwise the field is None and costs nothing. `batch.scores` and `batch.labels` [B N] are the
examples' own, nan where there are none; `batch.ended` is 0 for a response that was cut. The marks
of engine.loss_contract say what else a loss needs: no reference, mismatched responses, the policy's
log-probabilities before the first update.
Import from it: the parts below; `losses` is imported whole.
It imports: engine.
"""

from selfrew.shelves.losses.combined import sum
from selfrew.shelves.losses.cringe import check_margin_norm, cringe, pairwise_cringe
from selfrew.shelves.losses.imitation import check_mean, sft
from selfrew.shelves.losses.pairwise import (
    apo_down,
    apo_zero,
    check_tau,
    discopop,
    dpo,
    dpop,
    exo,
    hinge,
    ipo,
    ld_dpo,
    nca,
    robust_dpo,
    sppo,
)
from selfrew.shelves.losses.policy_gradient import grpo, rloo
from selfrew.shelves.losses.reference_free import orpo, simpo
from selfrew.shelves.losses.unpaired import kto
from selfrew.shelves.losses.values import cd_fudge, cd_q

__all__ = [
    'apo_down',
    'apo_zero',
    'cd_fudge',
    'cd_q',
    'check_margin_norm',
    'check_mean',
    'check_tau',
    'cringe',
    'discopop',
    'dpo',
    'dpop',
    'exo',
    'grpo',
    'hinge',
    'ipo',
    'kto',
    'ld_dpo',
    'nca',
    'orpo',
    'pairwise_cringe',
    'rloo',
    'robust_dpo',
    'sft',
    'simpo',
    'sppo',
    'sum',
]
