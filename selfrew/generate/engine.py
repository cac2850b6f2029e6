"""Batches of requests of like length, each decoded until all of it has ended."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from selfrew import hosts, sharding
from selfrew.models import decoder
from selfrew.types import Response

BUCKET = 32  # prompts are padded to a multiple of this, so that few programs are compiled


@jax.jit
def _fold(key, number_M, index_M):
    return jax.vmap(lambda a, b: jax.random.fold_in(jax.random.fold_in(key, a), b))(number_M, index_M)


def request_keys(key, ids, indices):
    """A key for each request: `key` (seed, round and purpose) folded with its prompt's id and its sample index.

    Args: ids, a string for each request; indices, an int for each. Returns [M] keys.
    """
    numbers = [int.from_bytes(hashlib.sha1(i.encode()).digest()[:4], 'little') for i in ids]
    return _fold(key, np.array(numbers, np.uint32), np.array(indices, np.uint32))


def _pick(logits_RV, uniform_R, temperature, top_p, nucleus: bool):
    """A token for each row by inverse CDF, and its raw log-probability. Temperature 0: argmax."""
    logp_RV = jax.nn.log_softmax(logits_RV)
    tempered_RV = jax.nn.softmax(logits_RV / jnp.maximum(temperature, 1e-6))
    if nucleus:  # the smallest set of likeliest tokens that holds top_p, found in sorted order
        order_RV = jnp.argsort(-tempered_RV, axis=-1)
        sorted_RV = jnp.take_along_axis(tempered_RV, order_RV, axis=-1)
        before_RV = jnp.cumsum(sorted_RV, axis=-1) - sorted_RV
        sorted_RV = jnp.where(before_RV < top_p, sorted_RV, 0.0)
        tempered_RV = jnp.zeros_like(tempered_RV).at[jnp.arange(len(order_RV))[:, None], order_RV].set(sorted_RV)
    cdf_RV = jnp.cumsum(tempered_RV, axis=-1)
    # The first token whose CDF exceeds u·total. Summed in parallel, a CDF can creep over a token of probability 0.
    hit_RV = (cdf_RV > (uniform_R * cdf_RV[:, -1])[:, None]) & (tempered_RV > 0)
    sampled_R = jnp.where(jnp.any(hit_RV, axis=-1), jnp.argmax(hit_RV, axis=-1), jnp.argmax(tempered_RV, axis=-1))
    token_R = jnp.where(temperature == 0, jnp.argmax(logits_RV, axis=-1), sampled_R)
    return token_R, jnp.take_along_axis(logp_RV, token_R[:, None], axis=-1)[:, 0]


def prefill(module, params, tokens_RL, length_R, room: int):
    """Reads prompts, padded on the right. Returns (hidden state of each one's last token [R D], cache).

    The cache has L + room columns: column c < L holds prompt token c, column L + t produced token t of every row.
    """
    R, L = tokens_RL.shape
    position_RL = jnp.broadcast_to(jnp.arange(L)[None, :], (R, L))
    causal_RLL = jnp.broadcast_to(jnp.tril(jnp.ones((L, L), bool))[None], (R, L, L))
    hidden_RLD, new = module.apply({'params': params}, tokens_RL, position_RL, causal_RLL)
    none, room = (0, 0), (0, room)
    cache = {'k': jnp.pad(new['k'], (none,) * 4 + (room,)), 'v': jnp.pad(new['v'], (none,) * 3 + (room, none))}
    return jnp.take_along_axis(hidden_RLD, (length_R - 1)[:, None, None], axis=1)[:, 0], _lay(module, cache)


def advance(module, params, token_R, length_R, t, room: int, cache):
    """Reads produced token `t` of each row. Returns (its hidden state [R D], the cache with it)."""
    C = cache['k'].shape[4]
    L = C - room
    column_C = jnp.arange(C)
    produced_C = column_C >= L
    position_RC = jnp.where(produced_C, column_C - L, column_C)[None, :] + produced_C[None, :] * length_R[:, None]
    mask_RC = (column_C[None, :] < length_R[:, None]) | (produced_C & (column_C < L + t))[None, :]
    mask_RC = jnp.pad(mask_RC, ((0, 0), (0, 1)), constant_values=True)  # itself
    hidden_R1D, new = module.apply(
        {'params': params}, token_R[:, None], (length_R + t)[:, None], mask_RC[:, None, :], cache, position_RC
    )
    write = jax.lax.dynamic_update_slice_in_dim
    cache = {'k': write(cache['k'], new['k'], L + t, axis=4), 'v': write(cache['v'], new['v'], L + t, axis=3)}
    return hidden_R1D[:, 0], _lay(module, cache)


def produce(module, params, hidden_RD, cache, length_R, key_R, t, temperature, top_p, *, room: int, nucleus: bool):
    """Draws token `t` of each row and reads it: (token [R], its raw log-probability [R], hidden [R D], cache)."""
    uniform_R = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, t)))(key_R)
    token_R, logp_R = _pick(decoder.head(module, params, hidden_RD), uniform_R, temperature, top_p, nucleus)
    return token_R, logp_R, *advance(module, params, token_R, length_R, t, room, cache)


def _lay(module, cache):
    """The cache, its rows and heads split over the mesh."""
    return {name: sharding.constrain(module.mesh, x, None, 'rows', 'kv', None, None) for name, x in cache.items()}


@functools.partial(jax.jit, static_argnames=('module', 'ends', 'max_tokens', 'nucleus'))
def _decode(module, params, tokens_RL, length_R, key_R, temperature, top_p, *, ends, max_tokens, nucleus):
    """Returns tokens [R T], their raw log-probabilities [R T], and how many tokens each row produced [R]."""
    R = tokens_RL.shape[0]
    last_RD, cache = prefill(module, params, tokens_RL, length_R, max_tokens)

    def unfinished(carry):
        t, _, done_R, *_ = carry
        return (t < max_tokens) & ~jnp.all(done_R)

    def step(carry):
        t, hidden_RD, done_R, produced_R, out_RT, logp_RT, cache = carry
        token_R, logp_R, after_RD, cache = produce(
            module, params, hidden_RD, cache, length_R, key_R, t, temperature, top_p, room=max_tokens, nucleus=nucleus
        )
        out_RT = jax.lax.dynamic_update_slice_in_dim(out_RT, token_R[:, None].astype(out_RT.dtype), t, axis=1)
        logp_RT = jax.lax.dynamic_update_slice_in_dim(logp_RT, logp_R[:, None], t, axis=1)
        produced_R = produced_R + ~done_R
        done_R = done_R | jnp.isin(token_R, jnp.array(ends))
        return t + 1, after_RD, done_R, produced_R, out_RT, logp_RT, cache

    zeros_RT = jnp.zeros((R, max_tokens), jnp.int32)
    carry = 0, last_RD, jnp.zeros(R, bool), jnp.zeros(R, jnp.int32), zeros_RT, zeros_RT.astype(jnp.float32), cache
    _, _, _, produced_R, out_RT, logp_RT, _ = jax.lax.while_loop(unfinished, step, carry)
    return out_RT, logp_RT, produced_R


def padded(lm, sequences, rows: int):
    """Batches of like length: (which ones [M], the same filled up to R, tokens [R L] padded on the right, length [R]).

    R is at most `rows`, but at least one for each part that the mesh splits rows into; the first one fills.
    """
    split = sharding.row_count(lm.mesh)
    rows = max(min(rows, 1 << (len(sequences) - 1).bit_length()), split) if sequences else rows
    rows = -(-rows // split) * split
    order = np.argsort([len(s) for s in sequences], kind='stable')
    for start in range(0, len(order), rows):
        ids = order[start : start + rows]
        filled = np.concatenate([ids, np.repeat(ids[:1], rows - len(ids))])
        length = np.array([len(sequences[i]) for i in filled], np.int32)
        tokens = np.full((rows, min(-(-length.max() // BUCKET) * BUCKET, lm.config.max_length)), lm.text.pad, np.int32)
        for row, i in enumerate(filled):
            tokens[row, : length[row]] = sequences[i]
        yield ids, filled, tokens, length


@functools.partial(jax.jit, static_argnums=0)
def _value(module, params, tokens_RL, length_R):
    return decoder.scalar(params, prefill(module, params, tokens_RL, length_R, 0)[0])


def values(lm, params, sequences, *, rows: int = 64) -> list[float]:
    """The scalar head's value at the last token of each sequence of tokens, in order. KeyError without such a head."""
    out, found = [0.0] * len(sequences), []
    parts = list(padded(lm, sequences, rows))
    for _, _, tokens, length in tqdm(parts, desc='value', unit='batch', mininterval=1.0, disable=not hosts.main()):
        found.append(hosts.own(_value(lm.module, params, lm.rows(tokens), lm.rows(length))))
    for (ids, *_), value_R in zip(parts, hosts.merge(found)):
        for i, value in zip(ids, value_R):
            out[i] = float(value)
    return out


def generate(lm, params, prompts, keys, *, max_tokens: int, temperature: float = 1.0, top_p: float = 1.0,
             rows: int = 256, title: str = 'sample') -> list[Response]:  # fmt: skip
    """One response for each request, in the order of the requests.

    Args:
      prompts: a list of tokens for each request, not empty.
      keys: [M] keys, see `request_keys`.
      max_tokens: a response is cut there (finish 'length', no end token).
      temperature: 0 is greedy. top_p: 1 keeps all tokens.
      rows: requests decoded together. title: of the progress bar.
    Raises ValueError where a prompt and max_tokens exceed the model's context, or an option is out of range.
    """
    if max_tokens < 1 or temperature < 0 or not 0 < top_p <= 1 or rows < 1:
        raise ValueError(f'want max_tokens >= 1, temperature >= 0, 0 < top_p <= 1, rows >= 1; got {max_tokens=}, '
                         f'{temperature=}, {top_p=}, {rows=}')  # fmt: skip
    longest = max(map(len, prompts), default=0)
    if longest + max_tokens > lm.config.max_length:
        raise ValueError(f'a prompt of {longest} tokens and max_tokens={max_tokens} exceed the context of '
                         f'{lm.config.max_length}')  # fmt: skip
    out, kept = [None] * len(prompts), []

    def answer(ids, produced, logp, n):
        for row, i in enumerate(ids):
            mine = tuple(int(t) for t in produced[row, : n[row]])
            finish = 'stop' if mine[-1] in lm.text.ends else 'length'
            out[i] = Response(lm.text.decode(mine), mine, finish, float(logp[row, : n[row]].sum(dtype=np.float64)))

    with tqdm(total=len(prompts), desc=title, unit='sample', mininterval=1.0, disable=not hosts.main()) as bar:
        count = 0
        for ids, filled, tokens, length in padded(lm, prompts, rows):
            found = hosts.own(_decode(
                lm.module, params, lm.rows(tokens), lm.rows(length), lm.rows(keys[filled]), temperature, top_p,
                ends=lm.text.ends, max_tokens=max_tokens, nucleus=top_p < 1,
            ))  # fmt: skip
            if hosts.alone():
                answer(ids, *found)
            else:
                kept.append((ids, found))
            count += int(found[2][: len(ids)].sum())  # of several processes, this one's rows
            bar.update(len(ids))
            bar.set_postfix_str(f'{count / max(bar.format_dict["elapsed"], 1e-9):,.0f} tokens/s')
    for (ids, _), found in zip(kept, hosts.merge([found for _, found in kept])):
        answer(ids, *found)
    return out
