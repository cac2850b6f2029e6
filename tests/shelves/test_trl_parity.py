"""Losses against TRL's of the same name: the same value and the same gradient, on the same
log-probabilities of tokens, in float64.

TRL's trainers compute their losses inside `_compute_loss` (seen in 1.16): it is called with a model
that answers with given log-probabilities. Skipped where the extra `parity` is not installed.
"""

import collections
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import packed, random_tokens

from selfrew.engine import logprobs
from selfrew.running import binding

torch = pytest.importorskip('torch')
dpo_trainer = pytest.importorskip('trl.trainer.dpo_trainer')
kto_trainer = pytest.importorskip('trl.trainer.kto_trainer')
cpo = pytest.importorskip('trl.experimental.cpo')
orpo = pytest.importorskip('trl.experimental.orpo')

KEY = jax.random.key(0)
B = 4
SUM = {'name': 'sum', 'losses': [{'name': 'dpo'}, {'name': 'sft', 'mean': 'token'}]}


def _float64(tree):
    def wide(x):
        return np.asarray(x, np.float64) if np.issubdtype(np.asarray(x).dtype, np.floating) else x

    return jax.tree.map(wide, tree)


def _ours(entry, policy, ref, labels=None):
    """(mean loss, its gradient by each token's log-prob as [b][n] -> array)."""
    loss = binding.bind('loss', entry, 'loss')
    with jax.enable_x64(True):
        out, batch = packed(policy, ref, labels=labels)
        sums = [[np.sum(tokens, dtype=np.float64) for tokens in row] for row in ref]
        out, batch = _float64(out), _float64(batch._replace(ref_logp=np.array(sums)))

        def mean_loss(token_logp):
            logp_BN = logprobs.response_sums(batch, token_logp)
            its_out = out._replace(logp=logp_BN, token_logp=token_logp)
            return jnp.mean(loss(its_out, batch, KEY)[0])

        value, grad_PS = jax.value_and_grad(mean_loss)(out.token_logp)
        example, response, place = map(np.asarray, logprobs.response_places(batch))
    grads = [[np.zeros(len(tokens)) for tokens in row] for row in policy]
    for b, n, t, grad, used in zip(
        *(x.ravel() for x in (example, response, place, np.asarray(grad_PS), batch.mask))
    ):
        if used:
            grads[int(b)][int(n)][int(t)] = grad
    return float(value), grads


def _rows(responses):
    """(values [rows T], mask [rows 1+T]) of responses after a prompt of one token."""
    longest = max(map(len, responses))
    values = torch.zeros(len(responses), longest, dtype=torch.float64)
    mask = torch.zeros(len(responses), 1 + longest, dtype=torch.long)
    for i, tokens in enumerate(responses):
        values[i, : len(tokens)] = torch.tensor(np.asarray(tokens, np.float64))
        mask[i, 1 : 1 + len(tokens)] = 1
    return values, mask


def _trainer(**fields):
    """What `_compute_loss` reads of a trainer."""
    accelerator = types.SimpleNamespace(
        device=torch.device('cpu'), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    return types.SimpleNamespace(
        model=types.SimpleNamespace(training=False),
        accelerator=accelerator,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics=collections.defaultdict(functools.partial(collections.defaultdict, list)),
        _total_train_tokens=0,
        **fields,
    )


def _answers(log_probs):
    """A model's outputs with these log-probs [rows T]; what is only logged is 0."""
    zeros = torch.zeros_like(log_probs)
    return lambda **_: types.SimpleNamespace(
        log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )


def _theirs_dpo(policy, ref, *, loss_types, weights=(1.0,), ld_alpha=None, **fields):
    values, mask = _rows([row[0] for row in policy] + [row[1] for row in policy])
    values.requires_grad_(True)
    ref_values, _ = _rows([row[0] for row in ref] + [row[1] for row in ref])
    if ld_alpha is not None:
        lengths = mask.sum(1)
        shared = torch.minimum(lengths[:B], lengths[B:]).repeat(2)[:, None]
        places = torch.arange(ref_values.shape[1])[None]
        ref_values = ref_values * torch.where(places < shared, 1.0, ld_alpha)
    ref_logps = ref_values.sum(1)
    options = {'beta': 0.1, 'label_smoothing': 0.0, 'discopop_tau': 0.05} | fields
    trainer = _trainer(
        ld_alpha=ld_alpha,
        f_divergence_type='reverse_kl',
        loss_types=list(loss_types),
        loss_weights=list(weights),
        use_weighting=False,
        beta=options['beta'],
        label_smoothing=options['label_smoothing'],
        args=types.SimpleNamespace(discopop_tau=options['discopop_tau']),
    )
    inputs = {
        'input_ids': torch.zeros_like(mask),
        'attention_mask': torch.ones_like(mask),
        'completion_mask': mask,
        'ref_chosen_logps': ref_logps[:B],
        'ref_rejected_logps': ref_logps[B:],
    }
    loss = dpo_trainer.DPOTrainer._compute_loss(trainer, _answers(values), inputs, False)
    (grad,) = torch.autograd.grad(loss, values)
    grads = [[grad[b].numpy(), grad[B + b].numpy()] for b in range(B)]
    return float(loss.detach()), grads


def _assert_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6, abs=1e-9)
    largest = 0.0
    for our_row, their_row in zip(ours[1], theirs[1], strict=True):
        for grad, expected in zip(our_row, their_row, strict=True):
            expected = expected[: len(grad)]
            np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-9)
            largest = max(largest, np.abs(expected).max())
    assert largest > 1e-4, 'there was no gradient to compare'


def _tokens(N, seed=0):
    policy, ref = random_tokens(B, N, seed)
    as_stored = functools.partial(np.asarray, dtype=np.float32)
    return [[as_stored(x) for x in row] for row in policy], [[as_stored(x) for x in r] for r in ref]


@pytest.mark.parametrize(
    'entry, fields',
    [
        ({'name': 'dpo'}, {'loss_types': ['sigmoid']}),
        ({'name': 'dpo', 'average': True}, {'loss_types': ['sigmoid_norm']}),
        ({'name': 'sft', 'mean': 'token'}, {'loss_types': ['sft']}),
        ({'name': 'hinge', 'beta': 0.3}, {'loss_types': ['hinge'], 'beta': 0.3}),
        ({'name': 'ipo', 'average': True}, {'loss_types': ['ipo']}),
        (
            {'name': 'robust_dpo', 'smoothing': 0.2},
            {'loss_types': ['robust'], 'label_smoothing': 0.2},
        ),
        ({'name': 'exo'}, {'loss_types': ['exo_pair'], 'label_smoothing': 1e-3}),
        ({'name': 'nca'}, {'loss_types': ['nca_pair']}),
        ({'name': 'sppo', 'beta': 0.01}, {'loss_types': ['sppo_hard'], 'beta': 0.01}),
        ({'name': 'apo_zero'}, {'loss_types': ['apo_zero']}),
        ({'name': 'apo_down'}, {'loss_types': ['apo_down']}),
        ({'name': 'discopop'}, {'loss_types': ['discopop']}),
        ({'name': 'discopop', 'tau': 0.5}, {'loss_types': ['discopop'], 'discopop_tau': 0.5}),
        ({'name': 'ld_dpo', 'tail': 0.3}, {'loss_types': ['sigmoid'], 'ld_alpha': 0.3}),
        (
            SUM | {'weights': (1.0, 0.5)},
            {'loss_types': ['sigmoid', 'sft'], 'weights': [1.0, 0.5]},
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize('seed', [0, 1])
def test_losses_on_pairs_are_trls(entry, fields, seed):
    policy, ref = _tokens(2, seed)
    _assert_same(_ours(entry, policy, ref), _theirs_dpo(policy, ref, **fields))


def _torch_sums(policy):
    """(leaves [b][n], sums [B N]) of the tokens' log-probs."""
    leaves = [
        [torch.tensor(np.asarray(x, np.float64), requires_grad=True) for x in row] for row in policy
    ]
    return leaves, torch.stack([torch.stack([x.sum() for x in row]) for row in leaves])


def _by_leaves(loss, leaves):
    flat = torch.autograd.grad(loss, [x for row in leaves for x in row], allow_unused=True)
    grads = iter([np.zeros(1) if grad is None else grad.numpy() for grad in flat])
    return float(loss.detach()), [[next(grads) for _ in row] for row in leaves]


def test_conservative_dpo_is_trls_smoothed_loss_of_cpo_where_the_reference_is_flat():
    policy, _ = _tokens(2)
    flat = [[np.zeros_like(x) for x in row] for row in policy]
    trainer = _trainer(alpha=0.0, beta=0.1, label_smoothing=0.2, loss_type='sigmoid')
    leaves, sums = _torch_sums(policy)
    losses, *_ = cpo.CPOTrainer.cpo_loss(trainer, sums[:, 0], sums[:, 1])
    ours = _ours({'name': 'dpo', 'smoothing': 0.2}, policy, flat)
    _assert_same(ours, _by_leaves(losses.mean(), leaves))


def test_simpo_is_trls():
    policy, ref = _tokens(2)
    trainer = _trainer(alpha=0.0, beta=2.0, simpo_gamma=0.8, label_smoothing=0, loss_type='simpo')
    leaves, sums = _torch_sums(policy)
    lengths = torch.tensor([[len(x) for x in row] for row in policy])
    means = sums / lengths
    losses, *_ = cpo.CPOTrainer.cpo_loss(trainer, means[:, 0], means[:, 1])
    ours = _ours({'name': 'simpo', 'beta': 2.0, 'gamma': 0.8}, policy, ref)
    _assert_same(ours, _by_leaves(losses.mean(), leaves))


def test_the_odds_ratio_of_orpo_is_trls():
    """Theirs is in float32, and adds the NLL elsewhere."""
    policy, ref = _tokens(2)
    leaves, sums = _torch_sums(policy)
    lengths = torch.tensor([[len(x) for x in row] for row in policy])
    means = sums / lengths
    trainer = _trainer(beta=0.1)
    ratio, *_ = orpo.ORPOTrainer.odds_ratio_loss(trainer, means[:, 0], means[:, 1])
    expected = _by_leaves((-ratio - means[:, 0]).mean(), leaves)
    ours = _ours({'name': 'orpo', 'odds': 0.1}, policy, ref)
    assert ours[0] == pytest.approx(expected[0], rel=1e-6)
    for our_row, their_row in zip(ours[1], expected[1]):
        for grad, their_grad in zip(our_row, their_row):
            np.testing.assert_allclose(grad, their_grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_kto_of_labelled_responses_is_trls(seed):
    policy, ref = _tokens(2, seed)  # the second of each is mismatched
    wanted = [1.0, 0.0, 1.0, 0.0]
    values, mask = _rows([row[0] for row in policy])
    values.requires_grad_(True)

    def sums(tokens, column):
        return torch.tensor(
            [float(np.sum(row[column], dtype=np.float64)) for row in tokens]
        ).double()

    trainer = _trainer(
        loss_type='kto',
        beta=0.1,
        calculate_KL=True,
        desirable_weight=1.5,
        undesirable_weight=0.5,
        _compute_kl_logps=lambda *_: sums(policy, 1),
    )
    inputs = {
        'input_ids': torch.zeros_like(mask),
        'attention_mask': torch.ones_like(mask),
        'completion_mask': mask,
        'label': torch.tensor(wanted).bool(),
        'ref_logps': sums(ref, 0),
        'ref_KL_logps': sums(ref, 1),
    }
    loss = kto_trainer.KTOTrainer._compute_loss(trainer, _answers(values), inputs, False)
    loss = loss[0] if isinstance(loss, tuple) else loss
    (grad,) = torch.autograd.grad(loss, values)
    entry = {'name': 'kto', 'desirable': 1.5, 'undesirable': 0.5}
    ours = _ours(entry, policy, ref, labels=[[label, np.nan] for label in wanted])
    zeros = [np.zeros(len(row[1])) for row in policy]
    _assert_same(ours, (float(loss.detach()), [[grad[b].numpy(), zeros[b]] for b in range(B)]))
