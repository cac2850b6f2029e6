"""Log-probs of response tokens: the selected-token primitive, and its sums over responses.

Axis letters here:
  M tokens laid end to end   K the largest logits, as candidates   C chunks   W tokens of a chunk
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from selfrew.engine import loss_contract
from selfrew.mesh import sharding
from selfrew.models import decoder
from selfrew.types import Batch, Forward

CHUNK_BYTES = 128 * 2**20  # float32 logits that exist on a device at a time


def attention_mask(batch: Batch):
    """[R L L] bool: a token sees its own document's prompt and its own branch, causally."""
    doc_RL, branch_RL = batch.doc, batch.branch
    index_L = jnp.arange(doc_RL.shape[1])
    is_same_doc_RLL = doc_RL[:, :, None] == doc_RL[:, None, :]
    is_same_branch_RLL = branch_RL[:, :, None] == branch_RL[:, None, :]
    is_visible_RLL = (branch_RL[:, None, :] == 0) | is_same_branch_RLL
    is_causal_1LL = index_L[None, :, None] >= index_L[None, None, :]
    return is_same_doc_RLL & is_visible_RLL & is_causal_1LL


@jax.custom_vjp
def token_logp(logits_MV, target_M):
    """Log-prob [M] of each target, in nats. Its gradient is one pass over the logits, without a
    scatter.
    """
    return _token_logp_fwd(logits_MV, target_M)[0]


def _token_logp_fwd(logits_MV, target_M):
    max_M = jnp.max(logits_MV, axis=-1)
    logsumexp_M = max_M + jnp.log(jnp.sum(jnp.exp(logits_MV - max_M[:, None]), axis=-1))
    return take(logits_MV, target_M) - logsumexp_M, (logits_MV, target_M, logsumexp_M)


def _token_logp_bwd(residuals, slope_M):
    logits_MV, target_M, logsumexp_M = residuals
    softmax_MV = jnp.exp(logits_MV - logsumexp_M[:, None])
    return slope_M[:, None] * (one_hot(logits_MV, target_M) - softmax_MV), None


token_logp.defvjp(_token_logp_fwd, _token_logp_bwd)


def one_hot(x_MV, index_M):
    """[M V] bool: whether a column is the row's index. Takes only its shape from x_MV."""
    return jax.lax.broadcasted_iota(jnp.int32, x_MV.shape, 1) == index_M[:, None]


def take(x_MV, index_M):
    """The element [M] at each row's index.

    It is not a gather: V may be split over devices, and the gradient needs no scatter.
    """
    return jnp.sum(jnp.where(one_hot(x_MV, index_M), x_MV, 0.0), axis=-1)


def entropy(logits_MV):
    """Entropy [M] of each token's distribution, in nats."""
    logp_MV = jax.nn.log_softmax(logits_MV, axis=-1)
    return -jnp.sum(jnp.exp(logp_MV) * logp_MV, axis=-1)


def contrast(logits_MV, target_M, key_M, candidates: int):
    """CRINGE's −log σ(s* − s) [M] (arXiv 2211.05826), in nats.

    s is the target's logit. s* is the logit of a token drawn from the softmax over the largest
    `candidates` logits, without the target. Gradients flow into both logits.
    """
    others_MV = jnp.where(one_hot(logits_MV, target_M), -jnp.inf, jax.lax.stop_gradient(logits_MV))
    top_MK, token_MK = jax.lax.top_k(others_MV, candidates)
    noise_MK = jax.vmap(lambda key: jax.random.gumbel(key, (candidates,)))(key_M)
    choice_M = jnp.argmax(top_MK + noise_MK, axis=-1)
    drawn_M = jnp.take_along_axis(token_MK, choice_M[:, None], axis=-1)[:, 0]
    return jax.nn.softplus(take(logits_MV, target_M) - take(logits_MV, drawn_M))


class _Given(NamedTuple):
    """What is given of each token, and has no gradient."""

    key: Any = None  # [… ] for random draws
    base_hidden: Any = None  # [… D] hidden states of the model without adapters


def _measure_tokens(module, wants, heads, hidden_MD, target_M, given: _Given) -> dict:
    """The measures of M tokens, name -> [M], from their logits [M V], which are computed once."""
    logits_MV = decoder.logits(module, heads, hidden_MD)
    measures = {'logp': token_logp(logits_MV, target_M)}
    if 'entropy' in wants:
        measures['entropy'] = entropy(logits_MV)
    if 'contrast' in wants:
        measures['contrast'] = contrast(logits_MV, target_M, given.key, wants['contrast'])
    if 'value' in heads:
        value_MV = decoder.values(heads['value'], hidden_MD)
        measures['value'] = take(value_MV, target_M)
        if 'expect' in wants:
            if given.base_hidden is not None:
                logits_MV = decoder.logits(module, heads, given.base_hidden)
            measures['expect'] = jnp.sum(jax.nn.softmax(logits_MV, axis=-1) * value_MV, axis=-1)
    return measures


def measure(
    module, params, hidden_PSD, target_PS, *, key_PS=None, base_hidden_PSD=None, **wants
) -> dict:
    """The measures of each selected token, name -> [P S] float32. The one place where training
    applies the head.

    'logp', the target's log-prob in nats, and what else `wants` asks for:
      entropy=True: 'entropy' of the distribution, in nats.
      contrast=k: 'contrast' with k candidates (see `contrast`); needs a key for each token.
      token_logp=True: nothing here; `forward` keeps 'logp' for each token.
      value=True: 'value' of the target. The head params['value'] [D V] gives each next token one.
      expect=True: also 'expect', the mean value of the next token under the distribution (CD-Q,
        arXiv 2310.17022, Eq. 6). Of a model with adapters it is the distribution without them, from
        base_hidden.
    Logits beyond CHUNK_BYTES are computed one chunk of tokens at a time, and again in the backward
    pass.
    Raises ValueError for another measure, or for values without params['value'].
    """
    _check_wants(wants, params)
    P, S, _ = hidden_PSD.shape
    mesh, vocab = module.mesh, module.config.vocab
    shards = sharding.shards(mesh, 'vocab', vocab)
    chunks = math.ceil(S / max(CHUNK_BYTES * shards // (4 * vocab), 1))
    head_names = ['head' if 'head' in params else 'embed']
    head_names += ['value'] * ('value' in wants or 'expect' in wants)
    heads = {name: params[name] for name in head_names}
    given = _Given(key_PS, base_hidden_PSD)
    measure_parts = functools.partial(_flat, functools.partial(_measure_tokens, module, wants))
    if chunks == 1:
        return measure_parts(heads, hidden_PSD, target_PS, given)
    width = math.ceil(S / chunks)

    def cut(x_PS):  # to [C P W …]: C chunks of W tokens
        rest = x_PS.shape[2:]
        padding = jnp.broadcast_to(x_PS[:, :1], (P, chunks * width - S, *rest))
        padded = jnp.concatenate([x_PS, padding], axis=1)  # [P C·W …]
        return padded.reshape(P, chunks, width, *rest).swapaxes(0, 1)

    inputs = jax.tree.map(cut, (hidden_PSD, target_PS, given))
    # The stubs of custom_vjp lose what it returns.
    by_chunk = cast(dict[str, jax.Array], _map_chunks(measure_parts, mesh, heads, *inputs))
    return {name: x_CPW.swapaxes(0, 1).reshape(P, -1)[:, :S] for name, x_CPW in by_chunk.items()}


def _check_wants(wants: dict, params) -> None:
    choices = loss_contract.OPTIONAL_FIELDS
    for name in wants:
        if name not in choices:
            raise ValueError(f'no measure {name!r}; there are: {", ".join(choices)}')
    for name in wants:
        if name in ('value', 'expect') and 'value' not in params:
            raise ValueError(f'{name!r} needs a value head: set model.value_head')


def _flat(function, heads, hidden_PWD, target_PW, given) -> dict:
    """`function` of all parts' tokens laid end to end.

    One large matrix product is faster than many small ones.
    """
    inputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (hidden_PWD, target_PW, given))
    return {name: x_M.reshape(target_PW.shape) for name, x_M in function(heads, *inputs).items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _map_chunks(function, mesh, heads, hidden_CPWD, target_CPW, given) -> dict:
    """`function` of each chunk in turn, name -> [C P W]."""
    return jax.lax.map(lambda chunk: function(heads, *chunk), (hidden_CPWD, target_CPW, given))


def _map_chunks_fwd(function, mesh, *operands):
    values = jax.custom_derivatives.custom_vjp_primal_tree_values(operands)
    return _map_chunks(function, mesh, *values), values


def _map_chunks_bwd(function, mesh, operands, slopes):
    """Recomputes each chunk. Each part sums a head gradient of its own, so that devices add theirs
    up once, not once per chunk.
    """
    heads, *inputs = operands
    slopes = {
        name: slope
        for name, slope in slopes.items()
        if not isinstance(slope, jax.custom_derivatives.SymbolicZero)
    }
    P = inputs[0].shape[1]

    def part_vjp(hidden_WD, target_W, given, slopes):
        rest = jax.tree.map(lambda x: x[None], (target_W, given))

        def measures(heads, hidden_WD):
            return {name: function(heads, hidden_WD[None], *rest)[name][0] for name in slopes}

        return jax.vjp(measures, heads, hidden_WD)[1](slopes)

    def add_chunk(sums, chunk):
        if P == 1:
            grads = part_vjp(*jax.tree.map(lambda x: x[0], chunk))
            head_grads, hidden_grad = jax.tree.map(lambda x: x[None], grads)
        else:
            head_grads, hidden_grad = jax.vmap(part_vjp)(*chunk)
        sums = jax.tree.map(lambda total, x: total + x.astype(jnp.float32), sums, head_grads)
        return sums, hidden_grad

    def zeros(head):  # [P …], one sum per part
        array = jnp.zeros((P, *head.shape), jnp.float32)
        return sharding.constrain(mesh, array, 'rows', *[None] * head.ndim)

    sums, hidden_CPWD = jax.lax.scan(add_chunk, jax.tree.map(zeros, heads), (*inputs, slopes))
    head_grads = jax.tree.map(lambda x, head: jnp.sum(x, axis=0).astype(head.dtype), sums, heads)
    return head_grads, hidden_CPWD, None, None


_map_chunks.defvjp(_map_chunks_fwd, _map_chunks_bwd, symbolic_zeros=True)


def _gather(x_RL, index_PS):
    """The elements [P S …] of x_RL [R L …] at indices into each part's rows laid end to end."""
    P, S = index_PS.shape
    x_PM = x_RL.reshape(P, -1, *x_RL.shape[2:])
    return jnp.take_along_axis(x_PM, index_PS.reshape(P, S, *[1] * (x_PM.ndim - 2)), axis=1)


def _token_keys(key, batch: Batch):
    """A key [P S] for each selected token, from its example, branch and position alone."""

    def token_key(example, branch, position):
        example_key = jax.random.fold_in(key, example)
        return jax.random.fold_in(jax.random.fold_in(example_key, branch), position)

    doc_PS = _gather(batch.doc, batch.target)
    branch_PS = _gather(batch.branch, batch.target)
    position_PS = _gather(batch.position, batch.target)
    example_PS = batch.index[jnp.maximum(doc_PS - 1, 0)]
    return jax.vmap(jax.vmap(token_key))(example_PS, branch_PS, position_PS)


def token_measures(module, params, batch: Batch, key=None, **wants) -> dict:
    """The measures of each response token of the batch, name -> [P S]; 0 where a place is unused.
    See `measure`.

    key: for random draws. A token's draw is its own, whatever shares its batch or row.
    """
    hidden_PSD, base_hidden_PSD = _hidden_states(module, params, batch), None
    if 'expect' in wants and module.config.lora:
        plain = module.clone(config=dataclasses.replace(module.config, lora=0))
        base_hidden_PSD = jax.lax.stop_gradient(_hidden_states(plain, params, batch))
    key_PS = _token_keys(key, batch) if 'contrast' in wants else None
    target_PS, given = _gather(batch.tokens, batch.target), {'base_hidden_PSD': base_hidden_PSD}
    measures = measure(module, params, hidden_PSD, target_PS, key_PS=key_PS, **given, **wants)
    return {name: x_PS * batch.mask for name, x_PS in measures.items()}


def _hidden_states(module, params, batch: Batch):
    """[P S D] The hidden states from which the batch's response tokens are predicted."""
    hidden_RLD, _ = module.apply(
        {'params': params}, batch.tokens, batch.position, attention_mask(batch)
    )
    return _gather(hidden_RLD, batch.source)


def selected_logp(module, params, batch: Batch):
    """Log-prob [P S] of each response token of the batch, in nats; 0 where a place is unused."""
    return token_measures(module, params, batch)['logp']


def forward(module, params, batch: Batch, key=None, **wants) -> Forward:
    """Summed log-probs and lengths [B N] of the batch's responses, and the optional fields in
    `wants` (see loss_contract.requested_fields).
    """
    measures = token_measures(module, params, batch, key, **wants)
    if 'token_logp' in wants:
        measures['token_logp'] = measures['logp']
    fields = {
        name: x_PS if name in loss_contract.PER_TOKEN_FIELDS else response_sums(batch, x_PS)
        for name, x_PS in measures.items()
    }
    return Forward(length=response_sums(batch, batch.mask), **fields)


def response_sums(batch: Batch, x_PS):
    """Sums [B N] over each response's tokens of a number for each selected token.

    B and N are those of batch.ref_logp.
    """
    B, N = batch.ref_logp.shape
    doc_PS, branch_PS = _gather(batch.doc, batch.target), _gather(batch.branch, batch.target)
    response_PS = jnp.where(branch_PS <= N, (doc_PS - 1) * N + branch_PS - 1, -1)
    # Not a segment_sum, which is a loop over tokens on a CPU.
    is_of_response = response_PS.reshape(-1, 1) == jnp.arange(B * N)[None]  # [P·S B·N]
    return jnp.sum(jnp.where(is_of_response, x_PS.reshape(-1, 1), 0.0), axis=0).reshape(B, N)


def response_places(batch: Batch):
    """(example, response, place), each [P S] int32: where each selected token belongs. Place 0 is
    the first token of its response. Without meaning where a place is unused.
    """
    B = batch.ref_logp.shape[0]
    is_prompt_RL = batch.branch == 0
    of_doc = batch.doc.reshape(-1, 1) == 1 + jnp.arange(B)[None]  # [R·L B]
    prompt_length_B = jnp.sum(of_doc & is_prompt_RL.reshape(-1, 1), axis=0)
    example_PS = jnp.maximum(_gather(batch.doc, batch.target) - 1, 0)
    response_PS = jnp.maximum(_gather(batch.branch, batch.target) - 1, 0)
    place_PS = _gather(batch.position, batch.target) - prompt_length_B[example_PS]
    return example_PS, response_PS, place_PS
