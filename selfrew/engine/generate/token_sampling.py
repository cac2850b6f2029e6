"""One token of each row: temperature, top-k, nucleus and min-p, row by row, without sorting the
vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 128  # probabilities are summed in blocks: a token is found in two small steps, not by a sum over all of them
ONE = int(np.float32(1.0).view(np.int32))


def sample_tokens(logits_RV, uniform_R, temperature_R, top_k_R, top_p_R, min_p_R):
    """A token for each row by inverse CDF, and its log-probability under the raw distribution, in
    nats.

    Args:
      logits: [R V] float32. uniform: [R], in [0, 1), all the randomness there is.
      temperature: [R]; 0 is the argmax.
      top_k: [R] int32, how many of the likeliest tokens may be drawn; 0 for all.
      top_p: [R], then the smallest set of the likeliest of these that holds so much of their
        probability; 1 for all.
      min_p: [R], and none that is less likely than this times the likeliest; 0 for all.
    Tokens as likely as the least likely one that is let through are let through with it.
    Returns ([R] int32, [R] float32).
    """
    best_R = jnp.max(logits_RV, axis=-1)
    raw_RV = jnp.exp(logits_RV - best_R[:, None])
    logp_of_best_R = -jnp.log(jnp.sum(raw_RV, axis=-1))
    # What no row asks for is not computed; a row that does not ask for it gets the same bits either
    # way.
    weight_RV = jax.lax.cond(
        jnp.all(temperature_R == 1.0),
        lambda: raw_RV,
        lambda: jnp.exp((logits_RV - best_R[:, None]) / jnp.maximum(temperature_R, 1e-6)[:, None]),
    )
    asked = jnp.any(top_k_R > 0) | jnp.any(top_p_R < 1.0) | jnp.any(min_p_R > 0.0)
    weight_RV = jax.lax.cond(
        asked, _filtered, lambda w, *_: w, weight_RV, top_k_R, top_p_R, min_p_R
    )
    token_R = _at(weight_RV, uniform_R)
    greedy_R = temperature_R == 0.0
    argmax_RV = lambda: jnp.argmax(logits_RV, axis=-1).astype(jnp.int32)
    token_R = jnp.where(
        greedy_R, jax.lax.cond(jnp.any(greedy_R), argmax_RV, lambda: token_R), token_R
    )
    picked_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=-1)[:, 0]
    return token_R, picked_R - best_R + logp_of_best_R


def _at(weight_RV, uniform_R):
    """The first token at which the sum of the weights exceeds uniform times their whole sum; never
    one of weight 0.
    """
    R, V = weight_RV.shape
    blocks_RVB = jnp.pad(weight_RV, ((0, 0), (0, -V % BLOCK))).reshape(R, -1, BLOCK)
    sum_RV = jnp.sum(blocks_RVB, axis=-1)
    upto_RV = jnp.cumsum(sum_RV, axis=-1)
    goal_R = uniform_R * upto_RV[:, -1]
    block_R = _first(upto_RV, sum_RV, goal_R)
    one = lambda x, i: jnp.take_along_axis(x, i[:, None], axis=1)[:, 0]
    inside_RB = jnp.take_along_axis(blocks_RVB, block_R[:, None, None], axis=1)[:, 0]
    goal_R = goal_R - (one(upto_RV, block_R) - one(sum_RV, block_R))
    return block_R * BLOCK + _first(jnp.cumsum(inside_RB, axis=-1), inside_RB, goal_R)


def _first(upto_RX, weight_RX, goal_R):
    """The first place whose sum exceeds the goal; where rounding leaves none, the last that weighs
    anything.
    """
    some_RX = weight_RX > 0
    hit_RX = (upto_RX > goal_R[:, None]) & some_RX
    last_R = weight_RX.shape[1] - 1 - jnp.argmax(some_RX[:, ::-1], axis=-1)
    return jnp.where(jnp.any(hit_RX, axis=-1), jnp.argmax(hit_RX, axis=-1), last_R).astype(
        jnp.int32
    )


def _filtered(weight_RV, top_k_R, top_p_R, min_p_R):
    """The weights, 0 where a token may not be drawn; the largest weight of a row is 1."""
    count = lambda kept_RV: jnp.sum(kept_RV, axis=-1, dtype=jnp.int32)
    mass = lambda kept_RV: jnp.sum(jnp.where(kept_RV, weight_RV, 0.0), axis=-1)
    least = lambda enough: lambda: _least(weight_RV, enough)
    none = lambda: jnp.zeros(len(weight_RV))
    k_R = jnp.where(top_k_R > 0, top_k_R, weight_RV.shape[1])
    floor_R = jax.lax.cond(jnp.any(top_k_R > 0), least(lambda kept: count(kept) >= k_R), none)
    left_RV = weight_RV >= floor_R[:, None]
    goal_R = top_p_R * mass(left_RV)
    nucleus_R = jax.lax.cond(
        jnp.any(top_p_R < 1.0), least(lambda kept: mass(kept & left_RV) >= goal_R), none
    )
    floor_R = jnp.maximum(floor_R, jnp.where(top_p_R < 1.0, nucleus_R, 0.0))
    return jnp.where(weight_RV >= jnp.maximum(floor_R, min_p_R)[:, None], weight_RV, 0.0)


def _least(weight_RV, enough):
    """The largest weight [R] such that those at least as large are `enough` ([R V] bool -> [R]
    bool).

    By bisection over the bits of a float: those of floats that are not negative are in the order of
      the floats.
    """
    at = lambda bits_R: jax.lax.bitcast_convert_type(bits_R, jnp.float32)

    def halve(_, bounds):
        low_R, high_R = bounds  # enough at low, not enough at high
        middle_R = low_R + (high_R - low_R) // 2
        fine_R = enough(weight_RV >= at(middle_R)[:, None])
        return jnp.where(fine_R, middle_R, low_R), jnp.where(fine_R, high_R, middle_R)

    zeros_R = jnp.zeros(len(weight_RV), jnp.int32)
    return at(jax.lax.fori_loop(0, 30, halve, (zeros_R, zeros_R + ONE + 1))[0])
