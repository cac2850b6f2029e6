"""Pairs: which response is set against which, by hand, and the shelf's contract."""

import functools
import math

import numpy as np
import pytest

from selfrew.running import binding
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


def test_singles_are_labelled_by_a_threshold():
    examples = list(pairs.singles(_judged(0.4, 0.5, NAN), np.random.default_rng(0), label_at=0.5))
    assert [e.labels for e in examples] == [(0.0,), (1.0,)]
    assert all(e.labels == () for e in pairs.singles(_judged(0.4), np.random.default_rng(0)))


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


@pytest.mark.parametrize(
    'scores, texts',
    [
        ((0.0, 5.0, 3.0), 'bac'),  # the explored response c is neither,
        ((0.0, 3.0, 5.0), 'cac'),  # the winner,
        ((3.0, 5.0, 0.0), 'bcc'),  # the loser,
        ((0.0, 5.0, NAN), 'bac'),  # or has no verdict
    ],
)
def test_the_explored_response_stays_whatever_its_rank(scores, texts):
    assert _texts(pairs.extremes, _judged(*scores), keep_last=True) == [texts]


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


# `agreeing` needs verdicts, which these judgements lack; it is tested with the seed's verdicts. A
# group keeps responses without a verdict, and ties.
NAMES = sorted({*binding.part_names('pairs', pairs)} - {'agreeing', 'group'})


# The rule inside keeps the contract, and a limit of words changes the prompt.
OPTIONS = {'length_limited': {'pairs': pairs.extremes, 'gap': 2}}


@pytest.mark.parametrize('name', NAMES)
def test_every_pairing_keeps_the_contract(name):
    """An iterator of Examples of this prompt; responses with a verdict, best first; a function of
    the generator.
    """
    pair = functools.partial(getattr(pairs, name), **OPTIONS.get(name, {}))
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


# --- limits of words ------------------------------------------------------------------------------


def _said(count: int) -> str:
    return ' '.join(['word'] * count)


def _limited(winner: int, loser: int, gap=10, seed=0, **options) -> list[Example]:
    """The limited examples of a pair with so many words each."""
    judgement = _judged(1.0, 0.0, texts=(_said(winner), _said(loser)), task='t')
    rule = functools.partial(pairs.extremes)
    rng = np.random.default_rng(seed)
    return list(pairs.length_limited(judgement, rng, pairs=rule, gap=gap, **options))


def _lengths(example) -> list[int]:
    return [len(response.text.split()) for response in example.responses]


def test_a_longer_winner_keeps_its_place_under_a_wide_limit_and_loses_it_under_a_tight_one():
    plain, keep, flip = _limited(30, 12)
    assert _lengths(plain) == _lengths(keep) == [30, 12] and _lengths(flip) == [12, 30]
    assert plain.scores == keep.scores == (1.0, 0.0) and flip.scores == (0.0, 1.0)
    assert 'limit' not in plain.prompt.meta and keep.prompt.meta['limit'] == 40
    assert 12 < flip.prompt.meta['limit'] < 30
    assert 'flipped' in flip.prompt.meta and 'flipped' not in keep.prompt.meta


def test_a_shorter_winner_keeps_its_place_under_both():
    _, keep, tight = _limited(12, 30)
    assert _lengths(keep) == _lengths(tight) == [12, 30]
    assert keep.prompt.meta['limit'] == 40 and 12 < tight.prompt.meta['limit'] < 30
    assert 'flipped' not in tight.prompt.meta


def test_limits_lie_evenly_between_the_two_lengths():
    limits = [_limited(5, 2, gap=3, seed=seed)[2].prompt.meta['limit'] for seed in range(200)]
    assert set(limits) == {3, 4} and 70 < limits.count(3) < 130


@pytest.mark.parametrize('lengths, count', [((20, 11), 1), ((20, 10), 3), ((11, 20), 1)])
def test_a_pair_of_nearly_the_same_length_gets_no_limit(lengths, count):
    assert len(_limited(*lengths)) == count
    assert len(_limited(*lengths, plain=False)) == count - 1


def test_only_the_prompt_is_changed_and_ids_are_distinct():
    plain, keep, flip = _limited(30, 12)
    assert len({e.prompt.id for e in (plain, keep, flip)}) == 3
    assert '40 words' in keep.prompt.text and keep.prompt.text.endswith('Q?')
    assert set(keep.responses) == set(plain.responses) == set(flip.responses)
    assert keep.prompt.meta['task'] == 't'


def test_responses_lose_the_log_probabilities_of_the_prompt_without_a_limit():
    responses = tuple(Response(_said(n), (5,) * n, 'stop', -3.0) for n in (30, 12))
    judgement = Judgement(Rollout(user_prompt('p', 'Q?'), responses), (1.0, 0.0))
    options = {'pairs': functools.partial(pairs.extremes), 'gap': 10}
    plain, keep, flip = pairs.length_limited(judgement, np.random.default_rng(0), **options)
    assert [r.logp for r in plain.responses] == [-3.0, -3.0]
    for example in (keep, flip):
        assert [r.logp for r in example.responses] == [None, None]
        assert {r.tokens for r in example.responses} == {r.tokens for r in responses}


def test_a_single_response_gets_a_limit_it_keeps():
    judgement = _judged(1.0, texts=(_said(7),))
    rule = functools.partial(pairs.singles)
    options = {'pairs': rule, 'gap': 10}
    plain, limited = pairs.length_limited(judgement, np.random.default_rng(0), **options)
    assert plain.responses == limited.responses and limited.prompt.meta['limit'] == 17


def test_a_third_response_follows_its_pair():
    judgement = _judged(1.0, 0.0, 0.5, texts=(_said(30), _said(12), _said(3)))
    rule = functools.partial(pairs.extremes, keep_last=True)
    options = {'pairs': rule, 'gap': 10}
    *_, flip = pairs.length_limited(judgement, np.random.default_rng(0), **options)
    assert _lengths(flip) == [12, 30, 3] and flip.scores == (0.0, 1.0, 0.5)


def test_limits_are_bound_and_checked_with_the_rule_inside():
    entry = {'name': 'length_limited', 'pairs': {'name': 'extremes', 'count': 2}, 'gap': 10}
    rule = binding.bind('pairs', entry, 'round.pairs')
    assert rule.keywords['pairs'].keywords == {'count': 2}
    for change, message in (
        ({'gap': 1}, r'gap: 1: want at least 2'),
        ({'template': 'nowhere'}, 'nowhere'),
        ({'pairs': {'name': 'extreme'}}, "no pairs named 'extreme'"),
    ):
        with pytest.raises(ValueError, match=message):
            binding.bind('pairs', entry | change, 'round.pairs')
