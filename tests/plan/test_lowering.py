"""The model FLOPs of a program are those counted by hand; every loss's update is lowered."""

import functools

import pytest
from toys import toy

from selfrew.engine import train_state
from selfrew.models.config import ModelConfig
from selfrew.plan import lowering
from selfrew.plan.training import BatchShape
from selfrew.shelves import losses, optimizers


def test_model_flops_by_hand():
    config = ModelConfig(
        vocab=10, width=4, layers=2, heads=2, kv_heads=1, head_dim=2, mlp=8, max_length=8
    )
    # 2·3 tokens·100 weights, 2·4·10 at one position, and 4·2 layers·2 heads·2 features for each of
    # 5 columns
    flops = lowering.model_flops(config, 100, tokens=3, head_positions=1, context=5)
    assert flops == pytest.approx(600 + 80 + 160)


@pytest.mark.parametrize('name', ['ld_dpo', 'pairwise_cringe', 'kto'])
def test_the_update_of_a_loss_that_asks_for_more_is_lowered(name):
    """For the devices here: each token's reference, the contrast, a mismatched response."""
    lm, _ = toy()
    loss, optimizer = functools.partial(getattr(losses, name)), optimizers.adamw()
    shape = BatchShape(examples=4, n=3, micros=2, rows=4, length=32, selected=64)
    state, batch = train_state.abstract_state(lm, optimizer), lowering._batch(lm, shape)
    program = lowering._update_program(lm, loss, optimizer, state, batch, shape)
    program.lower().compile()


@pytest.mark.parametrize('name, has_tokens', [('ld_dpo', True), ('dpo', False)])
def test_the_reference_pass_leaves_each_tokens_log_prob_where_the_loss_reads_it(name, has_tokens):
    lm, _ = toy()
    shape = BatchShape(examples=4, n=2, micros=2, rows=4, length=32, selected=64)
    params = train_state.abstract_state(lm, optimizers.adamw()).params
    batch = lowering._batch(lm, shape)
    loss = functools.partial(getattr(losses, name))
    out = lowering._reference_program(lm, loss, params, batch, shape).lower().out_info
    assert out.logp.shape == (4, 2)
    assert (out.token_logp is not None) == has_tokens
    assert not has_tokens or out.token_logp.shape == (1, 64)
