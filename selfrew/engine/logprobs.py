"""What a model says of the response tokens of a batch: the selected-token primitive, and its sums.
Layer 2.
"""

import functools
import math

import jax
import jax.numpy as jnp

from selfrew.engine import loss_contract
from selfrew.mesh import sharding
from selfrew.models import decoder
from selfrew.types import Batch, Forward

CHUNK = 128 * 2**20  # bytes of logits, in float32, that exist on a device at a time


def attention_mask(batch: Batch):
    """[R L L] bool: a token sees its own document's prompt and its own branch, causally."""
    doc, branch = batch.doc, batch.branch
    index = jnp.arange(doc.shape[1])
    same = doc[:, :, None] == doc[:, None, :]
    trunk = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return same & trunk & (index[None, :, None] >= index[None, None, :])


@jax.custom_vjp
def token_logp(logits_MV, target_M):
    """Log-probability [M] of each target, in nats. Its gradient is one pass over the logits,
    without a scatter.
    """
    return _pick(logits_MV, target_M)[0]


def _pick(logits_MV, target_M):
    top_M = jnp.max(logits_MV, axis=-1)
    whole_M = top_M + jnp.log(jnp.sum(jnp.exp(logits_MV - top_M[:, None]), axis=-1))
    return take(logits_MV, target_M) - whole_M, (logits_MV, target_M, whole_M)


def _pick_back(kept, slope_M):
    logits_MV, target_M, whole_M = kept
    softmax_MV = jnp.exp(logits_MV - whole_M[:, None])
    return slope_M[:, None] * (one_hot(logits_MV, target_M) - softmax_MV), None


token_logp.defvjp(_pick, _pick_back)


def one_hot(x_MV, index_M):
    return jax.lax.broadcasted_iota(jnp.int32, x_MV.shape, 1) == index_M[:, None]


def take(x_MV, index_M):
    """The element [M] of each row at an index. Not a gather: V may be split over devices; no
    scatter back.
    """
    return jnp.sum(jnp.where(one_hot(x_MV, index_M), x_MV, 0.0), axis=-1)


def entropy(logits_MV):
    """Of the distribution at each token [M], in nats."""
    logp_MV = jax.nn.log_softmax(logits_MV, axis=-1)
    return -jnp.sum(jnp.exp(logp_MV) * logp_MV, axis=-1)


def contrast(logits_MV, target_M, key_M, k: int):
    """CRINGE's −log σ(s* − s) [M] (arXiv 2211.05826), in nats: s the target's logit, s* that of a
    token drawn from the softmax over the k largest logits, the target's left out. Its gradient goes
    into both logits."""
    others_MV = jnp.where(one_hot(logits_MV, target_M), -jnp.inf, jax.lax.stop_gradient(logits_MV))
    top_MK, token_MK = jax.lax.top_k(others_MV, k)
    noise_MK = jax.vmap(lambda key: jax.random.gumbel(key, (k,)))(key_M)
    drawn_M = jnp.take_along_axis(
        token_MK, jnp.argmax(top_MK + noise_MK, axis=-1)[:, None], axis=-1
    )[:, 0]
    return jax.nn.softplus(take(logits_MV, target_M) - take(logits_MV, drawn_M))


def _measures(module, wants, heads, hidden_MD, target_M, key_M) -> dict:
    """What is wanted of M tokens, name -> [M], from their logits [M V], which exist once."""
    logits_MV = decoder.logits(module, heads, hidden_MD)
    out = {'logp': token_logp(logits_MV, target_M)}
    if 'entropy' in wants:
        out['entropy'] = entropy(logits_MV)
    if 'contrast' in wants:
        out['contrast'] = contrast(logits_MV, target_M, key_M, wants['contrast'])
    if 'expect' in wants:
        own = heads['value'].astype(hidden_MD.dtype)
        value_MV = jnp.matmul(hidden_MD, own, preferred_element_type=jnp.float32)
        out['value'] = take(value_MV, target_M)
        out['expect'] = jnp.sum(jax.nn.softmax(logits_MV, axis=-1) * value_MV, axis=-1)
    return out


def measure(module, params, hidden_PSD, target_PS, *, key_PS=None, **wants) -> dict:
    """What is known of each selected token, name -> [P S] float32. The one place where training
    applies the head.

    'logp', the target's log-probability in nats, and what else is asked for:
      entropy=True: 'entropy' of the distribution, in nats.
      contrast=k: 'contrast', see there, with a key for each token.
      expect=True: 'value', the target's under the head params['value'] [D V] of a value for each
        next token, and 'expect', the mean of these values over the distribution (CD-Q, arXiv
        2310.17022, Eq. 6).
    Logits beyond CHUNK are computed a chunk of tokens at a time, and again in the backward pass.
    """
    P, S, D = hidden_PSD.shape
    mesh, vocab = module.mesh, module.config.vocab
    shards = mesh.shape['tensor'] if mesh is not None and vocab % mesh.shape['tensor'] == 0 else 1
    chunks = math.ceil(S / max(CHUNK * shards // (4 * vocab), 1))
    names = ('head' if 'head' in params else 'embed'), *(('value',) if 'expect' in wants else ())
    heads = {name: params[name] for name in names}
    flat = functools.partial(_flat, functools.partial(_measures, module, wants))
    if chunks == 1:
        return flat(heads, hidden_PSD, target_PS, key_PS)
    width = math.ceil(S / chunks)

    def cut(x_PS):  # to [chunks P W …]
        x_PS = jnp.concatenate(
            [x_PS, jnp.broadcast_to(x_PS[:, :1], (P, chunks * width - S, *x_PS.shape[2:]))], axis=1
        )
        return x_PS.reshape(P, chunks, width, *x_PS.shape[2:]).swapaxes(0, 1)

    out = _by_chunk(flat, mesh, heads, *jax.tree.map(cut, (hidden_PSD, target_PS, key_PS)))
    return {name: x.swapaxes(0, 1).reshape(P, -1)[:, :S] for name, x in out.items()}


def _flat(function, heads, hidden_PWD, target_PW, key_PW) -> dict:
    """The function of tokens laid end to end: a product of matrices is faster than one of many
    small ones.
    """
    end_to_end = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), (hidden_PWD, target_PW, key_PW)
    )
    return {name: x.reshape(target_PW.shape) for name, x in function(heads, *end_to_end).items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_chunk(function, mesh, heads, hidden_CPWD, target_CPW, key_CPW):
    return jax.lax.map(lambda xs: function(heads, *xs), (hidden_CPWD, target_CPW, key_CPW))


def _kept(function, mesh, *given):
    values = jax.tree.map(lambda x: x.value, given, is_leaf=lambda x: hasattr(x, 'perturbed'))
    return _by_chunk(function, mesh, *values), values


def _back(function, mesh, kept, slopes):
    """Each part of the rows adds up a gradient of the head of its own, so that devices sum them
    once, not per chunk.
    """
    heads, *xs = kept
    slopes = {
        name: x
        for name, x in slopes.items()
        if not isinstance(x, jax.custom_derivatives.SymbolicZero)
    }
    P = xs[0].shape[1]

    def one(hidden, target, key, slope):
        part = jax.tree.map(lambda x: x[None], (target, key))
        used = lambda heads, hidden: {n: function(heads, hidden[None], *part)[n][0] for n in slope}
        return jax.vjp(used, heads, hidden)[1](slope)

    def add(sums, x):
        if P == 1:
            more, hidden = jax.tree.map(lambda x: x[None], one(*jax.tree.map(lambda x: x[0], x)))
        else:
            more, hidden = jax.vmap(one)(*x)
        return jax.tree.map(lambda a, g: a + g.astype(jnp.float32), sums, more), hidden

    lie = lambda x: sharding.constrain(mesh, x, 'rows', *[None] * (x.ndim - 1))
    sums = jax.tree.map(lambda x: lie(jnp.zeros((P, *x.shape), jnp.float32)), heads)
    sums, hidden = jax.lax.scan(add, sums, (*xs, slopes))
    return (
        jax.tree.map(lambda a, x: jnp.sum(a, axis=0).astype(x.dtype), sums, heads),
        hidden,
        None,
        None,
    )


_by_chunk.defvjp(_kept, _back, symbolic_zeros=True)


def _take(x_RL, index_PS):
    """Of [R L …], each part's rows laid end to end, what stands at the indices [P S]."""
    P, S = index_PS.shape
    x = x_RL.reshape(P, -1, *x_RL.shape[2:])
    return jnp.take_along_axis(x, index_PS.reshape(P, S, *[1] * (x.ndim - 2)), axis=1)


def token_measures(module, params, batch: Batch, key=None, **wants) -> dict:
    """What is known of each response token of the batch, name -> [P S]; 0 where a place is unused.
    See `measure`.

    key: of what is drawn, which is each token's own whatever lies beside it.
    """
    hidden_RLD, _ = module.apply(
        {'params': params}, batch.tokens, batch.position, attention_mask(batch)
    )
    key_PS = None
    if 'contrast' in wants:
        each = jax.vmap(
            jax.vmap(
                lambda i, n, t: jax.random.fold_in(
                    jax.random.fold_in(jax.random.fold_in(key, i), n), t
                )
            )
        )
        doc, branch, position = (
            _take(x, batch.target) for x in (batch.doc, batch.branch, batch.position)
        )
        key_PS = each(batch.index[jnp.maximum(doc - 1, 0)], branch, position)
    hidden_PSD, target_PS = _take(hidden_RLD, batch.source), _take(batch.tokens, batch.target)
    found = measure(module, params, hidden_PSD, target_PS, key_PS=key_PS, **wants)
    return {name: x_PS * batch.mask for name, x_PS in found.items()}


def selected_logp(module, params, batch: Batch):
    """Log-probability [P S] of each response token of the batch, in nats; 0 where a place is
    unused.
    """
    return token_measures(module, params, batch)['logp']


def forward(module, params, batch: Batch, key=None, **wants) -> Forward:
    """Summed log-probabilities and lengths [B N] of the batch's responses, and what else a loss
    wants: loss_contract.requested_fields.
    """
    found = token_measures(module, params, batch, key, **wants)
    B, N = batch.ref_logp.shape
    doc_PS, branch_PS = _take(batch.doc, batch.target), _take(batch.branch, batch.target)
    segment_PS = (doc_PS - 1) * N + branch_PS - 1
    mine = (
        segment_PS.reshape(-1, 1) == jnp.arange(B * N)[None]
    )  # not a segment_sum: a loop over tokens on a CPU

    def total(x_PS):
        return jnp.sum(jnp.where(mine, x_PS.reshape(-1, 1), 0.0), axis=0).reshape(B, N)

    whole = {name: x if name in loss_contract.BY_TOKEN else total(x) for name, x in found.items()}
    return Forward(length=total(batch.mask), **whole)
