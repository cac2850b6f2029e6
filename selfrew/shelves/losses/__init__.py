"""Losses. The shelf's contract: (out, batch, key, *, …) -> (loss_B, metrics).

`out.logp` [B N] are summed log-probabilities, best response first; `batch.ref_logp` [B N] those of
the reference. `loss_B` is the loss of each example; the train step takes its mean over B once,
weighted by `batch.weight`. `metrics` are [B] arrays, averaged without the weights. A loss is a pure
function of its arguments; `key` is for losses that draw.

A loss requests an optional field of `out` by a keyword argument with the field's name: `entropy`,
`contrast`, or `expect`, which `value` comes with. A value that is not 0, False or None says how the
field is computed (logprobs.measure); otherwise the field is None and costs nothing.
Import from it: the parts below; `losses` is imported whole.
It imports: engine.
"""

from selfrew.shelves.losses.imitation import check_mean, sft
from selfrew.shelves.losses.pairwise import check_tau, dpo, ipo

__all__ = ['check_mean', 'check_tau', 'dpo', 'ipo', 'sft']
