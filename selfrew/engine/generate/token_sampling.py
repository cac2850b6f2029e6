"""Samples one token for each row: temperature, top-k, nucleus (top-p) and min-p, each row with its
own options, without sorting the vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 128  # weights are summed in blocks: a token is found in two small steps, not one large sum
ONE_BITS = int(np.float32(1.0).view(np.int32))  # the bits of 1.0


def sample_tokens(logits_RV, uniform_R, temperature_R, top_k_R, top_p_R, min_p_R, tilt_RV=None):
    """A token for each row by inverse CDF, and two log-probs of it in nats: under the raw
    distribution, and under the one that it was drawn from.

    Args:
      logits: [R V] float32.
      uniform: [R] in [0, 1), the only randomness.
      temperature: [R]; 0 is the argmax.
      top_k: [R] int32, how many of the likeliest tokens may be sampled; 0 for all.
      top_p: [R], of those, the smallest set of the likeliest with this share of their probability;
        1 for all.
      min_p: [R], excludes tokens less likely than this fraction of the likeliest; 0 for all.
      tilt: [R V], added to the logits before all that; None for nothing.
    Ties with the least likely token that may be sampled may be sampled too.
    Returns ([R] int32, [R] float32, [R] float32).
    """
    best_R = jnp.max(logits_RV, axis=-1)
    weight_RV = jnp.exp(logits_RV - best_R[:, None])
    logp_of_best_R = -jnp.log(jnp.sum(weight_RV, axis=-1))
    is_raw_R = (temperature_R == 1.0) & (top_k_R == 0) & (top_p_R == 1.0) & (min_p_R == 0.0)
    tilted_RV, tilted_best_R = logits_RV, best_R
    if tilt_RV is not None:
        is_raw_R &= ~jnp.any(tilt_RV != 0.0, axis=-1)
        tilted_RV = logits_RV + tilt_RV
        tilted_best_R = jnp.max(tilted_RV, axis=-1)
        weight_RV = jnp.exp(tilted_RV - tilted_best_R[:, None])

    # What no row asks for is not computed. Rows that do not ask for it get the same bits anyway.
    def tempered():
        colder_RV = (tilted_RV - tilted_best_R[:, None]) / jnp.maximum(temperature_R, 1e-6)[:, None]
        return jnp.exp(colder_RV)

    weight_RV = jax.lax.cond(jnp.all(temperature_R == 1.0), lambda: weight_RV, tempered)
    truncates = jnp.any(top_k_R > 0) | jnp.any(top_p_R < 1.0) | jnp.any(min_p_R > 0.0)
    weight_RV = jax.lax.cond(
        truncates, _truncate, lambda w, *_: w, weight_RV, top_k_R, top_p_R, min_p_R
    )
    token_R, drawn_logp_R = _inverse_cdf(weight_RV, uniform_R)
    greedy_R = temperature_R == 0.0

    def argmax():
        return jnp.argmax(tilted_RV, axis=-1).astype(jnp.int32)

    argmax_R = jax.lax.cond(jnp.any(greedy_R), argmax, lambda: token_R)
    token_R = jnp.where(greedy_R, argmax_R, token_R)
    logit_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=-1)[:, 0]
    logp_R = logit_R - best_R + logp_of_best_R
    sampled_logp_R = jnp.where(greedy_R, 0.0, drawn_logp_R)
    return token_R, logp_R, jnp.where(is_raw_R, logp_R, sampled_logp_R)


def _inverse_cdf(weight_RV, uniform_R):
    """The first token where the cumulative weight exceeds uniform times the total, never one of
    weight 0; and the log of its share of the total.
    """
    R, V = weight_RV.shape
    blocks_RXB = jnp.pad(weight_RV, ((0, 0), (0, -V % BLOCK))).reshape(R, -1, BLOCK)
    sum_RX = jnp.sum(blocks_RXB, axis=-1)
    cumulative_RX = jnp.cumsum(sum_RX, axis=-1)
    total_R = cumulative_RX[:, -1]
    goal_R = uniform_R * total_R
    block_R = _first_above(cumulative_RX, sum_RX, goal_R)

    def at_block(x_RX):
        return jnp.take_along_axis(x_RX, block_R[:, None], axis=1)[:, 0]

    weight_RB = jnp.take_along_axis(blocks_RXB, block_R[:, None, None], axis=1)[:, 0]
    goal_R = goal_R - (at_block(cumulative_RX) - at_block(sum_RX))
    place_R = _first_above(jnp.cumsum(weight_RB, axis=-1), weight_RB, goal_R)
    drawn_R = jnp.take_along_axis(weight_RB, place_R[:, None], axis=1)[:, 0]
    return block_R * BLOCK + place_R, jnp.log(drawn_R) - jnp.log(total_R)


def _first_above(cumulative_RX, weight_RX, goal_R):
    """The first place with a weight whose cumulative weight exceeds the goal; if rounding leaves
    none, the last place with a weight.
    """
    positive_RX = weight_RX > 0
    above_RX = (cumulative_RX > goal_R[:, None]) & positive_RX
    last_R = weight_RX.shape[1] - 1 - jnp.argmax(positive_RX[:, ::-1], axis=-1)
    place_R = jnp.where(jnp.any(above_RX, axis=-1), jnp.argmax(above_RX, axis=-1), last_R)
    return place_R.astype(jnp.int32)


def _truncate(weight_RV, top_k_R, top_p_R, min_p_R):
    """The weights, 0 where a token may not be sampled. Each row's largest weight must be 1."""
    k_R = jnp.where(top_k_R > 0, top_k_R, weight_RV.shape[1])

    def zeros():
        return jnp.zeros(len(weight_RV))

    def top_k_threshold():
        return _largest_threshold(
            weight_RV, lambda kept_RV: jnp.sum(kept_RV, axis=-1, dtype=jnp.int32) >= k_R
        )

    threshold_R = jax.lax.cond(jnp.any(top_k_R > 0), top_k_threshold, zeros)
    in_top_k_RV = weight_RV >= threshold_R[:, None]

    def mass(kept_RV):
        return jnp.sum(jnp.where(kept_RV, weight_RV, 0.0), axis=-1)

    goal_R = top_p_R * mass(in_top_k_RV)

    def top_p_threshold():
        return _largest_threshold(weight_RV, lambda kept_RV: mass(kept_RV & in_top_k_RV) >= goal_R)

    nucleus_R = jax.lax.cond(jnp.any(top_p_R < 1.0), top_p_threshold, zeros)
    threshold_R = jnp.maximum(threshold_R, jnp.where(top_p_R < 1.0, nucleus_R, 0.0))
    return jnp.where(weight_RV >= jnp.maximum(threshold_R, min_p_R)[:, None], weight_RV, 0.0)


def _largest_threshold(weight_RV, is_enough):
    """[R] The largest threshold for which the weights at or above it are enough.

    is_enough: [R V] bool -> [R] bool. Found by bisection over the bits of a float: non-negative
    floats have the order of their bits.
    """

    def as_float(bits_R):
        return jax.lax.bitcast_convert_type(bits_R, jnp.float32)

    def halve(_, bounds):
        low_R, high_R = bounds  # enough at low, not enough at high
        middle_R = low_R + (high_R - low_R) // 2
        enough_R = is_enough(weight_RV >= as_float(middle_R)[:, None])
        return jnp.where(enough_R, middle_R, low_R), jnp.where(enough_R, high_R, middle_R)

    zeros_R = jnp.zeros(len(weight_RV), jnp.int32)
    bounds = jax.lax.fori_loop(0, 30, halve, (zeros_R, zeros_R + ONE_BITS + 1))
    return as_float(bounds[0])
