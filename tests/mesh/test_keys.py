"""A draw depends on the key and on the purpose, by the bits that earlier runs had."""

import jax
import numpy as np
import pytest

from selfrew.mesh import keys


def test_a_named_generator_is_seeded_by_the_key_and_the_crc_of_the_name():
    # 0xCBF43926 is the published check value of CRC-32 for '123456789'; key(5) is the words (0, 5)
    expected = np.random.default_rng([0, 5, 0xCBF43926]).random(4)
    found = keys.named_rng(jax.random.key(5), '123456789').random(4)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(('seed', 'name'), [(5, 'b'), (6, 'a')])
def test_another_name_or_key_gives_other_draws(seed, name):
    draws = keys.named_rng(jax.random.key(5), 'a').random(4)
    assert not np.isin(keys.named_rng(jax.random.key(seed), name).random(4), draws).any()


@pytest.mark.parametrize('seed', [-1, 2**32, 2**32 + 5])
def test_a_seed_that_jax_takes_as_another_is_refused(seed):
    with pytest.raises(ValueError, match=f'seed={seed}: want a whole number from 0'):
        keys.check_seed(seed)
    folded = jax.random.key_data(jax.random.key(seed))
    np.testing.assert_array_equal(folded, jax.random.key_data(jax.random.key(seed % 2**32)))


@pytest.mark.parametrize('seed', [0, 5, 2**32 - 1])
def test_other_seeds_are_taken(seed):
    keys.check_seed(seed)
