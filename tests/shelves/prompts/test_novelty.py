"""The filters of Self-Instruct: ROUGE-L against a plain computation, and each rejection."""

import numpy as np
import pytest

from selfrew.shelves.prompts import novelty


def _plain_lcs_length(first, second):
    """By the recursion over prefixes, row by row."""
    row = [0] * (len(second) + 1)
    for word in first:
        last = row[:]
        for j, other in enumerate(second):
            row[j + 1] = last[j] + 1 if word == other else max(last[j + 1], row[j])
    return row[-1]


def test_the_longest_common_subsequence_is_that_of_the_plain_recursion():
    rng = np.random.default_rng(0)
    for _ in range(300):
        first = rng.choice(list('abcde'), rng.integers(0, 90)).tolist()
        second = rng.choice(list('abcde'), rng.integers(0, 90)).tolist()
        assert novelty.lcs_length(first, second) == _plain_lcs_length(first, second)


def test_rouge_l_by_hand():
    first = novelty.words('Name the capital of France.')
    second = novelty.words('name a CAPITAL city of France')
    # in common: name capital of france
    assert novelty.rouge_l(first, second) == pytest.approx(2 * 4 / (5 + 6))
    assert novelty.is_similar(first, [second], 0.7) and not novelty.is_similar(
        first, [second], 0.73
    )
    assert novelty.rouge_l([], []) == 0.0 and novelty.rouge_l(first, first) == 1.0


@pytest.mark.parametrize(
    'instruction, reason',
    [
        ('Name three rivers of Europe.', None),
        ('Name three rivers.', 'length'),
        ('a ' * 151, 'length'),
        ('a ' * 150, None),
        ('Describe this image to me.', 'keyword'),
        ('Plot the sales of May.', 'keyword'),
        ('Please go to the next page.', 'keyword'),
        ('Write about imagery in poems.', None),
        ('Write a program that counts words.', 'program'),
        ('"Name" three rivers of Europe.', 'beginning'),
        ('Écris trois mots pour moi.', 'beginning'),
    ],
)
def test_instructions_are_filtered_as_in_the_paper(instruction, reason):
    assert novelty.rejection_reason(instruction) == reason
