"""What a loss unpacks, from numbers: (out, batch) of responses with given tokens' log-probs."""

import jax.numpy as jnp
import numpy as np

from selfrew.engine import logprobs, packing, reference
from selfrew.types import Forward

RATIO = 1.5  # of the contrast of a token to its log-prob, in `packed`


def of_tokens(batch, numbers):
    """[P S] Numbers of tokens, [b][n] -> one for each of a response's tokens."""
    B, N = batch.ref_logp.shape
    tokens = {i: np.concatenate([*row]).astype(np.float32) for i, row in enumerate(numbers)}
    given = reference.Reference(np.zeros((B, N), np.float32), tokens)
    return jnp.asarray(
        reference.with_reference(batch._replace(real=np.ones(B)), given).ref_token_logp
    )


def packed(policy, ref, *, labels=None, real=None, scores=None, ended=None, values=None):
    """(out, batch) of B examples of N responses, all fields of both filled.

    policy, ref: [b][n] -> the log-probs of a response's tokens; the policy's before the turn are
    half way between. labels, scores: [B N]; None: falling scores. ended: [B N] bool; None: all.
    values: [b][n] -> (value, expectation) of a response's tokens; None: some of size 1.
    """
    B, N = len(policy), len(policy[0])
    docs = [
        packing.Doc(
            index,
            (1, 1 + index),
            tuple(tuple(range(3, 3 + len(tokens))) for tokens in responses),
            1.0,
            scores=tuple(range(N, 0, -1)) if scores is None else tuple(scores[index]),
            labels=() if labels is None else tuple(labels[index]),
            ended=() if ended is None else tuple(ended[index]),
        )
        for index, responses in enumerate(policy)
    ]
    row_length = max(doc.length for doc in docs)
    (batch,) = packing.batches(docs, batch=B, row_length=row_length)
    sums = np.array([[np.sum(tokens) for tokens in responses] for responses in ref], np.float32)
    tokens = {i: np.concatenate([*responses]) for i, responses in enumerate(ref)}
    batch = reference.with_reference(batch, reference.Reference(sums, tokens))
    if real is not None:
        batch = batch._replace(real=np.array(real, np.float32), count=np.float32(np.sum(real)))
    logp_PS = of_tokens(batch, policy)
    old_PS = 0.5 * (logp_PS + batch.ref_token_logp)
    if values is None:
        values = [
            [np.stack([np.sin(np.multiply(9.0, t)), np.cos(np.multiply(7.0, t))]) for t in row]
            for row in policy
        ]
    value_PS, expect_PS = (
        of_tokens(batch, [[v[i] for v in row] for row in values]) for i in (0, 1)
    )
    batch = batch._replace(old_token_logp=np.asarray(old_PS))
    out = Forward(
        logp=logprobs.response_sums(batch, logp_PS),
        length=logprobs.response_sums(batch, batch.mask),
        entropy=logprobs.response_sums(batch, -logp_PS),
        contrast=logprobs.response_sums(batch, -RATIO * logp_PS),
        token_logp=logp_PS,
        value=value_PS,
        expect=expect_PS,
    )
    assert out.logp.shape == (B, N)
    return out, batch


def random_tokens(B: int, N: int, seed: int = 0, longest: int = 30):
    """Two of [b][n] -> log-probs: of the policy and of the reference, near each other."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest, (B, N))
    ref = [[-rng.exponential(1.0, length) for length in row] for row in lengths]
    policy = [[np.minimum(x + rng.normal(0, 0.3, len(x)), -1e-3) for x in row] for row in ref]
    return policy, ref
