"""Pairs: which response is set against which, by hand, and the shelf's contract."""

import math

import numpy as np
import pytest

from selfrew.run import binding
from selfrew.shelves import pairs
from selfrew.types import Example, Judgement, Response, Rollout, user_prompt

NAN = math.nan


def _judged(*scores, texts=None, **meta) -> Judgement:
    """A judgement of responses named a, b, c, …"""
    texts = texts or 'abcdefghijklmnop'[: len(scores)]
    return Judgement(Rollout(user_prompt('p', 'Q?', **meta), tuple(map(Response, texts))), scores)


def _texts(pair, judgement, seed=0, **options) -> list[str]:
    """The texts of each example, joined, best first."""
    examples = pair(judgement, np.random.default_rng(seed), **options)
    return [''.join(response.text for response in e.responses) for e in examples]


# --- singles --------------------------------------------------------------------------------------


def test_singles_are_each_response_alone_with_its_score():
    examples = list(pairs.singles(_judged(3.0, NAN, 0.0), np.random.default_rng(0)))
    assert [(e.responses[0].text, e.scores) for e in examples] == [('a', (3.0,)), ('c', (0.0,))]


def test_singles_leave_out_low_scores():
    assert _texts(pairs.singles, _judged(3.0, 4.0, NAN, 5.0), at_least=4.0) == ['b', 'd']
    assert _texts(pairs.singles, _judged(3.0, NAN), at_least=4.0) == []


def test_singles_are_capped_by_a_fair_draw():
    judgement = _judged(1.0, 1.0, NAN, 1.0, 0.0)
    drawn = [_texts(pairs.singles, judgement, seed, at_least=1.0, cap=2) for seed in range(50)]
    assert all(len(set(texts)) == 2 for texts in drawn)
    assert {text for texts in drawn for text in texts} == {'a', 'b', 'd'}
    assert sorted(_texts(pairs.singles, judgement, cap=9)) == ['a', 'b', 'd', 'e']


# --- extremes -------------------------------------------------------------------------------------


def test_the_best_is_set_against_the_worst():
    (example,) = pairs.extremes(_judged(2.0, 5.0, 1.0, 4.0), np.random.default_rng(0))
    assert [r.text for r in example.responses] == ['b', 'c']
    assert example.scores == (5.0, 1.0) and example.weight == 1.0


def test_two_scores_of_the_same_text_make_no_pair():
    assert _texts(pairs.extremes, _judged(4.0, 3.0, texts='aa')) == []


@pytest.mark.parametrize(
    'scores', [(), (3.0,), (3.0, 3.0, 3.0), (NAN, NAN), (NAN, 3.0), (3.0, NAN, 3.0)]
)
def test_a_tie_makes_no_pair(scores):
    assert _texts(pairs.extremes, _judged(*scores), count=5) == []


def test_a_response_without_a_verdict_neither_wins_nor_loses():
    assert _texts(pairs.extremes, _judged(NAN, 2.0, NAN, 1.0), count=5) == ['bd']
    assert _texts(pairs.right_vs_wrong, _judged(NAN, 1.0, NAN, 0.0)) == ['bd']


def test_an_empty_response_neither_wins_nor_loses():
    judgement = _judged(5.0, 2.0, 1.0, 0.0, texts=['', 'b', 'c', ''])
    assert _texts(pairs.extremes, judgement) == ['bc']
    assert _texts(pairs.singles, judgement) == ['b', 'c']


def test_the_best_and_the_worst_are_drawn_among_equals():
    judgement = _judged(5.0, 0.0, 5.0, 3.0, 0.0)
    drawn = {_texts(pairs.extremes, judgement, seed)[0] for seed in range(100)}
    assert drawn == {'ab', 'ae', 'cb', 'ce'}


def test_several_extremes_are_of_different_responses():
    judgement = _judged(5.0, 0.0, 5.0, 3.0, 0.0, 5.0)
    for seed in range(20):  # three best and two worst ones: two pairs, no response in both
        texts = _texts(pairs.extremes, judgement, seed, count=5)
        assert len(texts) == 2 and len(set(''.join(texts))) == 4
        assert all(winner in 'acf' and loser in 'be' for winner, loser in texts)


def test_the_last_response_follows_as_a_third():
    (example,) = pairs.extremes(_judged(0.0, 5.0, 3.0), np.random.default_rng(0), keep_last=True)
    assert [r.text for r in example.responses] == ['b', 'a', 'c']
    assert example.scores == (5.0, 0.0, 3.0)


# The best score 5: 'bbbbb' and 'ccc'. The worst scores 0: 'g' alone.
RANGED = _judged(5.0, 5.0, 4.0, 1.0, NAN, 0.0, texts=['bbbbb', 'ccc', 'dd', 'eeeeee', 'f' * 9, 'g'])


@pytest.mark.parametrize(
    'rho, texts',
    [
        (0.0, 'cccg'),  # the shorter of the best
        (0.2, 'ddeeeeee'),  # also from 4 up and from 1 down: the shortest winner, the longest loser
    ],
)
def test_length_control_takes_the_shortest_of_the_best_and_the_longest_of_the_worst(rho, texts):
    assert _texts(pairs.extremes, RANGED, rho=rho) == [texts]


def test_without_length_control_any_of_the_best_wins():
    (texts,) = _texts(pairs.extremes, RANGED, rho=None)
    assert texts in ('bbbbbg', 'cccg')


def test_length_control_never_prefers_a_lower_score():
    judgement = _judged(2.0, 1.0, 0.0, texts=['aaa', 'bb', 'c'])
    assert _texts(pairs.extremes, judgement, rho=0.5) == ['aaac']  # not 'bb' with itself
    with pytest.raises(ValueError, match='^0.6: want 0 to 0.5, or None'):
        _texts(pairs.extremes, _judged(2.0, 1.0), rho=0.6)


def test_winners_can_be_too_long_or_score_too_little():
    judgement = _judged(0.6, 0.2, texts=['aaa', 'b'])
    assert _texts(pairs.extremes, judgement, longest=2) == []
    assert _texts(pairs.extremes, judgement, at_least=0.7) == []
    assert _texts(pairs.extremes, judgement, longest=3, at_least=0.6) == ['aaab']


def test_an_example_weighs_what_its_votes_differ_by():
    (example,) = pairs.extremes(_judged(0.75, 0.125), np.random.default_rng(0), weigh=True)
    assert example.weight == 0.625 and example.scores == (0.75, 0.125)


# --- right against wrong --------------------------------------------------------------------------


def test_right_and_wrong_are_walked_together_and_the_shorter_starts_again():
    # right a, c, e; wrong b, d: after lcm(3, 2) = 6 steps the walk would repeat itself
    judgement = _judged(1.0, 0.0, 1.0, 0.0, 1.0)
    assert _texts(pairs.right_vs_wrong, judgement) == ['ab', 'cd', 'eb', 'ad', 'cb', 'ed']
    assert _texts(pairs.right_vs_wrong, judgement, count=4) == ['ab', 'cd', 'eb', 'ad']


def test_no_pair_of_the_walk_comes_twice():
    # four right and two wrong: lcm(4, 2) = 4
    judgement = _judged(1.0, 1.0, 0.0, 0.0, 1.0, 1.0)
    assert _texts(pairs.right_vs_wrong, judgement, count=30) == ['ac', 'bd', 'ec', 'fd']


def test_a_score_at_the_threshold_is_right():
    judgement = _judged(4.0, 3.9, NAN)
    assert _texts(pairs.right_vs_wrong, judgement, threshold=4.0) == ['ab']
    (example,) = pairs.right_vs_wrong(judgement, np.random.default_rng(0), threshold=4.0)
    assert example.scores == (4.0, 3.9)


@pytest.mark.parametrize('scores', [(), (1.0, 1.0), (0.0, 0.0), (NAN, 1.0), (NAN, 0.0)])
def test_without_a_right_or_a_wrong_response_there_is_no_pair(scores):
    assert _texts(pairs.right_vs_wrong, _judged(*scores)) == []


def test_gold_responses_join_the_winners_only():
    def texts(*scores, gold=True, **meta):
        return _texts(pairs.right_vs_wrong, _judged(*scores, **meta), gold=gold)

    assert texts(0.0, 0.0, responses=['G']) == ['Ga', 'Gb']
    assert texts(0.0, 1.0, responses=['G']) == ['ba', 'Ga']
    assert texts(0.0, 0.0, responses=['G'], gold=False) == []
    assert texts(1.0, 1.0, responses=['G']) == []
    assert texts(0.0, 1.0) == ['ba']


# --- the shelf ------------------------------------------------------------------------------------


# `agreeing` needs verdicts, which these judgements lack; it is tested with the seed's verdicts.
NAMES = sorted({*binding.part_names('pairs', pairs)} - {'agreeing'})


@pytest.mark.parametrize('name', NAMES)
def test_every_pairing_keeps_the_contract(name):
    """An iterator of Examples of this prompt; responses with a verdict, best first; a function of
    the generator.
    """
    pair = getattr(pairs, name)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scores = tuple(float(s) for s in rng.choice([0.0, 1.0, 2.0, 5.0, NAN], 6))
        judgement = _judged(*scores)
        score_of = dict(zip(judgement.rollout.responses, scores))
        examples = list(pair(judgement, np.random.default_rng(seed)))
        assert examples == list(pair(judgement, np.random.default_rng(seed)))
        for example in examples:
            assert isinstance(example, Example) and example.prompt is judgement.rollout.prompt
            assert example.scores == tuple(score_of[r] for r in example.responses)
            assert not any(map(math.isnan, example.scores))
            assert len(set(example.responses)) == len(example.responses)
            assert all(better > worse for better, worse in zip(example.scores, example.scores[1:]))
    for empty in (_judged(), _judged(NAN)):
        assert list(pair(empty, np.random.default_rng(0))) == []
