"""Samples do not depend on the mesh that they are made on, and one copy serves all of a turn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling_toys import assert_same_responses, ragged_prompts, sample
from toys import SMALL, toy

from selfrew.engine import sampling_layout
from selfrew.models import language_model

GiB = 2**30


def _with(lm, **fields):
    return dataclasses.replace(lm, **fields)


@pytest.mark.parametrize('tensor', [1, 2, 4, 8])
def test_samples_are_those_of_the_mesh_of_training(tensor):
    lm, params = toy(fsdp=8)
    expected = sample(lm, params, ragged_prompts())
    copy = sampling_layout.SamplingCopy(_with(lm, sampling=tensor))
    assert dict(copy.lm.mesh.shape) == {'data': 8 // tensor, 'fsdp': 1, 'tensor': tensor}
    assert_same_responses(sample(*copy.of(params), ragged_prompts()), expected)


def test_parameters_are_copied_once_until_they_are_dropped():
    lm, params = toy(fsdp=8)
    copy = sampling_layout.SamplingCopy(_with(lm, sampling=2))
    _, first = copy.of(params)
    assert copy.of(params)[1] is first
    copy.drop()
    assert copy.of(params)[1] is not first
    others = jax.tree.map(lambda x: x + 1, params)
    _, second = copy.of(others)
    for one, other in zip(jax.tree.leaves(second), jax.tree.leaves(others)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    'axes, sampling',
    [({}, None), ({'data': 8}, None), ({'fsdp': 8}, 0), ({'data': 4, 'tensor': 2}, 2)],
)
def test_nothing_is_copied_where_both_layouts_are_one(axes, sampling):
    lm, params = toy(**axes)
    lm = _with(lm, sampling=sampling)
    used = sampling_layout.SamplingCopy(lm).of(params)
    assert used[0] is lm and used[1] is params


def test_a_replica_has_as_many_devices_as_its_weights_ask_for():
    lm, _ = toy(fsdp=8)
    whole = sampling_layout.weight_bytes(sampling_layout.sampling_lm(_with(lm, sampling=1)))
    halves = sampling_layout.weight_bytes(sampling_layout.sampling_lm(_with(lm, sampling=2)))
    assert whole / 2 <= halves < 0.7 * whole  # norms stay whole

    def chosen(weights):
        """With devices of which this many bytes may be weights."""
        device_bytes = weights / sampling_layout.WEIGHTS_SHARE
        return sampling_layout.sampling_lm(lm, device_bytes).mesh.shape['tensor']

    assert [chosen(whole), chosen(whole - 1), chosen(halves), chosen(1)] == [1, 2, 2, 8]


def test_matrices_are_copied_in_the_dtype_of_the_compute():
    """Products convert them anyway, so no sample changes."""
    lm, params = toy(fsdp=8)
    lm = _with(lm, module=lm.module.clone(dtype=jnp.dtype('bfloat16')), sampling=1)
    sampling_lm, sampled = sampling_layout.SamplingCopy(lm).of(params)
    assert sampled['embed'].dtype == sampled['blocks']['q'].dtype == 'bfloat16'
    assert sampled['norm'].dtype == sampled['blocks']['mlp_norm'].dtype == 'float32'
    whole = jax.device_put(params, sampling_lm.param_shardings())  # in float32
    expected = sample(sampling_lm, whole, ragged_prompts())
    assert_same_responses(sample(sampling_lm, sampled, ragged_prompts()), expected)


# The mean difference of a response's log-prob to float32's over the mean log-prob, from and to: 8
# bits of mantissa round by up to 2^-9, int8 by up to 1/254 of the largest weight of an output, and
# the 4 bits of a cache in float8 by up to 2^-5.
GAPS = {
    ('sampling_dtype', 'bfloat16'): (3e-4, 1e-2),
    ('sampling_dtype', 'int8'): (1e-4, 1e-2),
    ('cache', 'float8_e4m3fn'): (3e-4, 3e-2),
}


@pytest.mark.parametrize('axes', [{}, {'data': 4, 'tensor': 2}], ids=['single', 'mesh'])
@pytest.mark.parametrize('name, dtype', GAPS)
def test_fewer_bits_change_log_probs_a_little(name, dtype, axes):
    lm, params = toy(**axes)
    options = {'temperature': 0.0, 'max_tokens': 3}
    expected = sample(lm, params, ragged_prompts(40), **options)
    copy = sampling_layout.SamplingCopy(_with(lm, **{name: dtype}))
    responses = sample(*copy.of(params), ragged_prompts(40), **options)
    pairs = [(a.logp, b.logp) for a, b in zip(responses, expected) if a.tokens == b.tokens]
    assert len(pairs) > 25
    logp, expected_logp = np.array(pairs).T
    gap = np.abs(logp - expected_logp).mean() / np.abs(expected_logp).mean()
    low, high = GAPS[name, dtype]
    assert low < gap < high
    assert copy.lm.cache_dtype == ('float32' if dtype == 'int8' else dtype)


@pytest.mark.parametrize('lora', [0, 4])
def test_samples_of_int8_are_those_of_matrices_rounded_to_it(lora):
    lm, params = toy(dataclasses.replace(SMALL, lora=lora))
    params = jax.tree.map(lambda x: x + 0.01, params)  # adapters that change something
    sampling_lm, sampled = sampling_layout.SamplingCopy(_with(lm, sampling_dtype='int8')).of(params)
    assert sampled['embed'].dtype == sampled['blocks']['down'].dtype == 'int8'
    assert sampled['norm'].dtype == sampled['blocks']['down_scale'].dtype == 'float32'

    def rounded(group, scales):
        return {
            name: x * jnp.expand_dims(scales[f'{name}_scale'], -1 if name == 'embed' else -2)
            if x.dtype == jnp.int8
            else x
            for name, x in group.items()
            if not name.endswith('_scale')
        }

    blocks = {'blocks': rounded(sampled['blocks'], sampled['blocks'])}
    top = {name: x for name, x in sampled.items() if name != 'blocks'}
    expected = sample(lm, rounded(top, top) | blocks, ragged_prompts())
    assert_same_responses(sample(sampling_lm, sampled, ragged_prompts()), expected)


def test_the_base_of_a_copy_in_int8_is_in_int8_too():
    lm = language_model.describe(folder='tiny', sampling_dtype='int8', max_length=64)
    copy = sampling_layout.SamplingCopy(lm)
    sampling_lm, sampled = copy.of(lm.base_params())
    for one, other in zip(
        jax.tree.leaves(sampling_lm.base_of(sampled)), jax.tree.leaves(sampled), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_dtype_without_products_is_refused():
    with pytest.raises(ValueError, match="no sampling_dtype 'int4'; there are: float32, bfloat16"):
        language_model.describe(folder='tiny', sampling_dtype='int4')


def test_a_number_that_divides_no_mesh_is_refused():
    with pytest.raises(ValueError, match='mesh.sampling=3: want a number that divides the 8 dev'):
        language_model.describe(folder='tiny', fsdp=8, sampling=3)
