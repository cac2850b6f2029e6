"""A turn trains on a random subset of its examples: in order, of the right size, reproducible."""

import numpy as np
import pytest

from selfrew.running import selection
from selfrew.types import Example, Response, user_prompt

EXAMPLES = [
    Example(user_prompt(str(i), 'Q?'), (Response('a'),), (float(i % 3 == 0),)) for i in range(12)
]


def _ids(examples) -> list[int]:
    return [int(e.prompt.id) for e in examples]


@pytest.mark.parametrize('size', [0, 5, 11])
def test_a_subsample_has_its_size_and_keeps_the_order(size):
    subset = selection.subsample(EXAMPLES, size, np.random.default_rng(0))
    assert len(subset) == size and _ids(subset) == sorted(set(_ids(subset)))
    assert subset == selection.subsample(EXAMPLES, size, np.random.default_rng(0))


@pytest.mark.parametrize('size', [None, 12, 99])
def test_a_subsample_of_all_changes_nothing(size):
    assert selection.subsample(EXAMPLES, size, np.random.default_rng(0)) == EXAMPLES


def test_only_examples_of_the_most_common_score_are_dropped():
    """Eight of 12 have score 0; at most half of all may, so four of them stay."""
    balanced = selection.balance_scores(EXAMPLES, 0.5, np.random.default_rng(0))
    assert [e for e in balanced if e.scores[0]] == [e for e in EXAMPLES if e.scores[0]]
    assert len(balanced) == 4 + 4 and _ids(balanced) == sorted(_ids(balanced))


@pytest.mark.parametrize('balance', [0.0, 1.0, 1.5])
def test_a_balance_that_is_no_share_is_refused(balance):
    with pytest.raises(ValueError, match=f'{balance}: want more than 0 and less than 1'):
        selection.check_balance(balance)


def test_a_balance_takes_as_many_as_its_share_says():
    """Of 10 other examples, 90 are nine tenths of a hundred; a float's 1 - 0.9 would leave 89."""
    examples = [EXAMPLES[0].__class__(EXAMPLES[0].prompt, (), (float(i < 10),)) for i in range(200)]
    assert len(selection.balance_scores(examples, 0.9, np.random.default_rng(0))) == 100
