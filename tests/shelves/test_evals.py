"""Evaluations: intervals and a judge's metrics against SciPy and by hand, win rates by hand."""

import functools
import math

import jax
import numpy as np
import pytest
from scipy import stats

from selfrew.models import language_model, lora
from selfrew.running import binding
from selfrew.shelves import evals, samplers, scorers
from selfrew.types import Judgement, Response, Rollout, user_prompt

NAN = math.nan


def _metrics(*rows, **options) -> dict:
    return evals.judge_metrics(list(rows), **options)


@pytest.mark.parametrize(
    'right, count',
    [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (81, 100), (999, 1000), (500, 1319)],
)
def test_the_interval_is_wilsons(right, count):
    interval = stats.binomtest(right, count).proportion_ci(method='wilson')
    assert evals.wilson(right, count) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_of_nothing_there_is_no_interval():
    assert all(map(math.isnan, evals.wilson(0, 0)))
    assert math.isnan(_metrics()['value']) and math.isnan(_metrics()['kendall'])


def test_a_perfect_judge_has_every_metric_at_1():
    metrics = _metrics(((5.0, 2.0, 1.0), (5.0, 2.0, 1.0)), ((1.0, 5.0, 5.0), (1.0, 5.0, 5.0)))
    assert metrics['pairs'] == 5  # 3 and, without the tie, 2
    for name in ('value', 'pairwise_half', 'five_best', 'exact_match', 'spearman', 'kendall'):
        assert metrics[name] == pytest.approx(1.0), name


def test_a_reversed_judge_has_every_metric_at_its_lowest():
    metrics = _metrics(((1.0, 2.0, 5.0), (5.0, 2.0, 1.0)), ((0.0, 5.0), (5.0, 0.0)))
    for name in ('value', 'pairwise_half', 'five_best', 'exact_match'):
        assert metrics[name] == 0.0, name
    assert metrics['spearman'] == pytest.approx(-1.0) and metrics['kendall'] == pytest.approx(-1.0)


def test_a_tie_is_wrong_in_the_strict_and_half_right_in_the_other_agreement():
    # Pairs of different grade: 5 > 2 is scored a tie, 5 > 1 and 2 > 1 right; in any order.
    metrics = _metrics(((4.0, 4.0, 1.0), (5.0, 2.0, 1.0)))
    assert metrics == pytest.approx(_metrics(((1.0, 4.0, 4.0), (1.0, 2.0, 5.0))), nan_ok=True)
    assert metrics['value'] == pytest.approx(2 / 3)
    assert metrics['pairwise_half'] == pytest.approx(2.5 / 3)
    assert metrics['exact_match'] == 0.0 and math.isnan(metrics['five_best'])  # no score of 5
    assert (metrics['low'], metrics['high']) == evals.wilson(2, 3)


def test_a_judge_who_always_says_the_same_is_no_better_than_chance():
    metrics = _metrics(((3.0, 3.0, 3.0), (5.0, 2.0, 1.0)))
    assert (metrics['value'], metrics['pairwise_half']) == (0.0, 0.5)
    assert (metrics['spearman'], metrics['kendall']) == (0.0, 0.0)


def test_responses_of_equal_grade_make_no_pair_but_their_order_counts_for_the_exact_match():
    metrics = _metrics(((5.0, 4.0, 1.0), (5.0, 5.0, 2.0)))
    assert metrics['pairs'] == 2 and metrics['value'] == 1.0
    assert metrics['exact_match'] == 0.0 and metrics['five_best'] == 1.0


def test_a_missing_verdict_is_wrong_in_every_pair_and_left_out_of_the_ranks():
    # 5 > 2 is right, 5 > 1 and 2 > 1 have no verdict; the ranks of the two others agree.
    metrics = _metrics(((4.0, 3.0, NAN), (5.0, 2.0, 1.0)))
    assert metrics['value'] == pytest.approx(1 / 3) == metrics['pairwise_half']
    assert metrics['exact_match'] == 0.0
    assert metrics['spearman'] == pytest.approx(1.0) and metrics['kendall'] == pytest.approx(1.0)
    silent = _metrics(((NAN, NAN), (5.0, 2.0)))
    assert (silent['value'], silent['pairwise_half'], silent['spearman']) == (0.0, 0.0, 0.0)


def test_five_best_is_the_share_of_perfect_scores_that_went_to_the_best_grade():
    # Scored 5 are grade 4 (the best of its prompt) and 3; in the other prompt, grade 1 of 2.
    rows = ((5.0, 5.0, 1.0), (4.0, 3.0, 1.0)), ((5.0, 4.0), (1.0, 2.0))
    assert _metrics(*rows)['five_best'] == pytest.approx(1 / 3)
    # The only response scored 4 has the best grade of its prompt.
    assert _metrics(*rows, perfect=4.0)['five_best'] == 1.0


def test_rank_correlations_are_scipys_averaged_over_prompts():
    rng = np.random.default_rng(0)
    rows = [(rng.permutation(7) / 2.0, rng.permutation(7)) for _ in range(5)]
    metrics = _metrics(*rows)
    spearman = np.mean([stats.spearmanr(scores, grades).statistic for scores, grades in rows])
    kendall = np.mean([stats.kendalltau(scores, grades).statistic for scores, grades in rows])
    assert metrics['spearman'] == pytest.approx(spearman)
    assert metrics['kendall'] == pytest.approx(kendall)
    # By hand: ranks (1, 2, 3) against (2, 1, 3) have ρ = 1 - 6 · 2 / (3 · 8) and τ = (2 - 1) / 3.
    by_hand = _metrics(((1.0, 2.0, 3.0), (2.0, 1.0, 3.0)))
    assert by_hand['spearman'] == pytest.approx(0.5) and by_hand['kendall'] == pytest.approx(1 / 3)


def test_votes_that_could_not_be_read_are_counted():
    rollout = Rollout(user_prompt('p', 'Q?'), (Response('a'), Response('b')))
    # A response without any vote counts as one missing vote.
    judgement = Judgement(rollout, (1.0, NAN), (), ((1.0, NAN, 1.0), ()))
    assert evals.missing_votes([judgement]) == pytest.approx(2 / 4)
    assert math.isnan(evals.missing_votes([Judgement(rollout, (1.0, 0.0))]))


def _evaluated(evaluation, scores, grades=None, **options):
    """The metrics and judgements of prompts 0, 1, … whose responses have these scores; the sampler
    leaves out a prompt without scores.
    """
    grades = grades or scores
    asked = [
        user_prompt(str(i), 'Q?', task='ab'[i % 2], grades=grades[i], responses=['a'])
        for i in range(len(scores))
    ]

    def sampler(lm, params, prompts, key):
        counts = [len(scores[int(prompt.id.split('/')[0])]) for prompt in prompts]
        return [Rollout(p, (Response('a'),) * count) for p, count in zip(prompts, counts) if count]

    def scorer(lm, params, rollouts, key):
        return [Judgement(r, tuple(scores[int(r.prompt.id.split('/')[0])])) for r in rollouts]

    parts = {'prompts': lambda *_: asked, 'sampler': sampler, 'scorer': scorer}
    return evaluation(Untrained(), None, jax.random.key(0), **parts, **options)


class Untrained:
    """A model whose parameters before any training are 'M0'."""

    def base_of(self, params):
        return 'M0'


def test_a_prompt_that_was_left_out_counts_as_wrong():
    metrics, judgements = _evaluated(evals.accuracy, [[1.0], [0.0], [], [1.0, 0.0]])
    assert metrics['value'] == pytest.approx(1.5 / 4) and metrics['n'] == 4 and len(judgements) == 3
    assert metrics['a'] == 0.5 and metrics['b'] == 0.25  # (1 + 0) / 2 and (0 + 0.5) / 2
    assert (metrics['low'], metrics['high']) == evals.wilson(1.5, 4)


def test_accuracy_refuses_what_cannot_be_verified():
    with pytest.raises(ValueError, match="prompt '1'"):
        _evaluated(evals.accuracy, [[1.0], [1.0, NAN]])


def test_the_majority_is_the_most_common_answer_and_the_first_of_two_as_common():
    final_answers = [('7', '8', '8.0', ''), ('7', '8', '', ''), ('', '', '', '')]
    asked = [user_prompt(str(i), 'Q?', 8) for i in range(3)]

    def sampler(lm, params, prompts, key):
        texts = [[f'Final answer: {a}' if a else 'Well.' for a in row] for row in final_answers]
        return [Rollout(p, tuple(map(Response, row))) for p, row in zip(prompts, texts)]

    parts = {'prompts': lambda *_: asked, 'sampler': sampler, 'scorer': scorers.exact_answer}
    metrics, judgements = evals.majority(None, None, jax.random.key(0), **parts)
    assert metrics['value'] == pytest.approx(1 / 3) and metrics['n'] == 3
    assert len(judgements[0].scores) == 4
    assert metrics['agreement'] == pytest.approx((0.5 + 0.25 + 0.0) / 3)


def test_exploration_is_the_share_of_prompts_with_any_right_response():
    rows = [[1.0, 0.0], [0.25, 0.0], [], [NAN, 0.5], [NAN, NAN]]
    metrics, judgements = _evaluated(evals.exploration, rows)
    assert metrics['value'] == pytest.approx(2 / 5) and metrics['n'] == 5 and len(judgements) == 4
    assert (metrics['low'], metrics['high']) == evals.wilson(2, 5)
    assert metrics['best_score'] == pytest.approx((1.0 + 0.25 + 0.5) / 3)
    assert metrics['score'] == pytest.approx(1.75 / 5) and metrics['no_verdict'] == 3 / 8
    strict, _ = _evaluated(functools.partial(evals.exploration, threshold=0.75), rows)
    assert strict['value'] == pytest.approx(1 / 5)


def test_exploration_wants_several_responses():
    with pytest.raises(ValueError, match='at least two responses a prompt'):
        _evaluated(evals.exploration, [[1.0, 0.0], [1.0]])


def _two_answers(lm, params, prompts, key):
    return [Rollout(prompt, (Response('a'),) * 2) for prompt in prompts]


OPTIONS = {
    'length_limits': {'scales': (1.0,)},
    'best_of_n': {'sizes': (1, 2), 'strengths': (1.0,)},
    'reward_kl': {'base_sampler': _two_answers},
}


@pytest.mark.parametrize('name', binding.part_names('evals', evals))
def test_every_evaluation_keeps_the_contract(name):
    """(metrics, judgements): floats with a value between the bounds of its interval, and a
    judgement a rollout.
    """
    scores, grades = [[5.0, 0.0], [1.0, 2.0], [3.0, 0.0]], [[5.0, 0.0]] * 3
    if name == 'exploration':  # wants scores from 0 to 1
        scores = [[score / 5.0 for score in row] for row in scores]
    metrics, judgements = _evaluated(getattr(evals, name), scores, grades, **OPTIONS.get(name, {}))
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    assert metrics['low'] <= metrics['value'] <= metrics['high']
    # win_rate has a rollout for each two responses that meet.
    assert len(judgements) == (6 if name == 'win_rate' else 3)
    assert all(isinstance(j, Judgement) for j in judgements)


# --- prompts without a truth ---


@pytest.mark.parametrize('values', [[1.0, 2.0], [0.0, 0.0, 0.0], [3.5, -1.0, 2.0, 8.0, 1.0]])
def test_the_interval_of_a_mean_is_students(values):
    low, high = evals.student(values)
    assert (low + high) / 2 == pytest.approx(np.mean(values))
    scale = stats.sem(values)
    if scale:
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), scale)
        assert (low, high) == pytest.approx(expected)
    else:
        assert low == high == values[0]


def test_of_one_value_there_is_no_interval():
    assert all(map(math.isnan, evals.student([1.0])))


def test_the_mean_score_is_over_prompts_and_leaves_out_what_has_no_verdict():
    metrics, judgements = _evaluated(evals.mean_score, [[1.0, 3.0], [NAN, 5.0], [NAN, NAN], []])
    # Means 2 and 5: s / √2 = 1.5, t of one degree of freedom 12.7062.
    assert metrics['value'] == 3.5 and metrics['n'] == 2 and len(judgements) == 3
    assert metrics['high'] - 3.5 == pytest.approx(12.7062 * 1.5, rel=1e-5)
    assert 3.5 - metrics['low'] == pytest.approx(12.7062 * 1.5, rel=1e-5)
    # One of two, two of two, and the prompt without a response, of 6 + 1.
    assert metrics['no_verdict'] == pytest.approx(4 / 7)


def test_without_any_verdict_there_is_no_mean_and_no_win_rate():
    for evaluation in (evals.mean_score, evals.win_rate):
        metrics, _ = _evaluated(evaluation, [[NAN, NAN], [NAN, NAN]])
        assert math.isnan(metrics['value']) and math.isnan(metrics['low'])
        assert metrics['n'] == 0 and metrics['no_verdict'] == 1.0


def _met(scores, own=('own',), opponents=('opponent',), seen=None, **options):
    """(metrics, judgements) of a win rate. Prompt i's comparisons get the scores[i]; those of a
    prompt whose scores are None do not fit into the opponent's context.
    """
    lm, asked = Untrained(), [user_prompt(str(i), 'Q?') for i in range(len(scores))]

    def sampler(lm, params, prompts, key):
        is_base = params == 'M0'
        responses = tuple(
            Response(text, (1,) * len(text)) for text in (opponents if is_base else own)
        )
        if seen is not None:
            seen.append((params, jax.random.key_data(key).tolist()))
        fitting = [p for p in prompts if not (is_base and scores[int(p.id)] is None)]
        return [Rollout(p, responses) for p in fitting]

    def scorer(lm, params, rollouts, key):
        if seen is not None:
            seen.append(params)
        judgements = []
        for rollout in rollouts:
            assert [r.text for r in rollout.responses] == ['own', 'opponent']
            index, _, i = rollout.prompt.id.partition('/')
            pair = scores[int(index)]
            judgements.append(Judgement(rollout, tuple(pair[int(i)] if i else pair)))
        return judgements

    parts = {'prompts': lambda *_: asked, 'sampler': sampler, 'scorer': scorer} | options
    return evals.win_rate(lm, 'M3', jax.random.key(0), **parts)


def test_a_win_counts_1_a_tie_half_and_no_verdict_nothing():
    scores = [(2.0, 1.0), (1.0, 1.0), (0.0, 3.0), (NAN, 1.0), (1.0, 0.0), None, (1.0, NAN)]
    metrics, judgements = _met(scores)
    assert metrics == pytest.approx(
        {
            'value': 2.5 / 4,
            'low': evals.wilson(2.5, 4)[0],
            'high': evals.wilson(2.5, 4)[1],
            'n': 4,
            'wins': 2 / 4,
            'ties': 1 / 4,
            'losses': 1 / 4,
            'no_verdict': 3 / 7,
            'length': 3.0,
            'opponent_length': 8.0,
        }
    )
    assert len(judgements) == 6  # none for the prompt without an opponent's response


def test_of_several_responses_to_a_prompt_the_share_won_counts():
    scores = [[(1.0, 0.0), (1.0, 1.0)], [(0.0, 1.0), (NAN, 1.0)]]
    metrics, judgements = _met(scores, own=('own', 'own'), opponents=('opponent', 'opponent'))
    assert metrics['value'] == (0.75 + 0.0) / 2 and metrics['n'] == 2
    assert (metrics['wins'], metrics['ties'], metrics['losses']) == (0.25, 0.25, 0.5)
    assert metrics['no_verdict'] == 1 / 4
    assert len({j.rollout.prompt.id for j in judgements}) == 4


def test_the_model_judges_itself_unless_the_base_is_to():
    for options, judge in (({}, 'M3'), ({'judged_by': 'base'}, 'M0')):
        seen = []
        _met([(1.0, 0.0)], seen=seen, **options)
        assert seen[-1] == judge
        (first, first_key), (second, second_key) = seen[:2]
        assert {first, second} == {'M0', 'M3'} and first_key != second_key
    with pytest.raises(ValueError, match="no judge 'gpt'; there are: current, base"):
        _met([(1.0, 0.0)], judged_by='gpt')


GREEDY = functools.partial(samplers.sample, n=1, temperature=0.0, max_tokens=8)
TEXTS = [user_prompt(str(i), f'What is {i} + 3?') for i in range(3)]


def _tiny_win_rate(lm, params, **options):
    parts = {'prompts': lambda *_: TEXTS, 'sampler': GREEDY, 'scorer': scorers.length} | options
    return evals.win_rate(lm, params, jax.random.key(0), **parts)


def test_a_model_ties_with_itself_by_whatever_name(tiny):
    lm, params = tiny
    for opponent in (None, 'tiny', lm.folder):
        metrics, judgements = _tiny_win_rate(lm, params, opponent=opponent)
        assert metrics['value'] == 0.5 and metrics['ties'] == 1.0
        for judgement in judgements:
            ours, theirs = judgement.rollout.responses
            assert ours.tokens == theirs.tokens and ours.tokens


def test_an_opponent_is_sampled_once_for_all_rounds(tiny):
    lm, params = tiny
    sampled = []

    def counting(lm, params, prompts, key):
        sampled.append(params)
        return GREEDY(lm, params, prompts, key)

    later = jax.tree.map(lambda x: x * 1.01, params)
    for now in (params, later):
        _tiny_win_rate(lm, now, sampler=counting)
    assert len(sampled) == 3 and sampled[1] is params and sampled[2] is later


def test_with_adapters_the_base_shares_the_models_matrices():
    lm, params = language_model.load(folder='tiny', lora=2)
    trained = params | {'blocks': {name: x + 1 for name, x in params['blocks'].items()}}
    base, fresh = lm.base_of(trained), lm.base_params()
    assert base['embed'] is trained['embed']
    for name, x in base['blocks'].items():
        if lora.is_adapter(name):
            np.testing.assert_array_equal(x, fresh['blocks'][name])
        else:
            assert x is trained['blocks'][name]


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('opponent', 'no/such/folder/here', "no model folder 'no/such/folder/here'"),
        ('opponent', '.', 'config.json'),
        ('judged_by', 'gpt', "no judge 'gpt'; there are: current, base"),
        ('opponent', 3, 'want str or None, got int'),
    ],
)
def test_a_wrong_opponent_or_judge_is_refused_when_the_config_is_bound(field, value, message):
    entry = {
        'name': 'win_rate',
        'prompts': {'name': 'task', 'tasks': ('rising',), 'n': 2},
        'sampler': {'name': 'sample', 'n': 1},
        'scorer': {'name': 'length'},
    }
    assert binding.bind('evals', entry, 'evals.wins', evals).func is evals.win_rate
    with pytest.raises(ValueError, match=r'evals\.wins \(win_rate\).' + field) as refusal:
        binding.bind('evals', entry | {field: value}, 'evals.wins', evals)
    assert message in str(refusal.value)


# --- exploration, limits of words -----------------------------------------------------------------


def _asks(prompts):
    """A bound source of prompts."""
    return lambda lm, params, key: prompts


def _says(texts_of):
    """A bound sampler: the texts of each prompt, by its id."""

    def sampler(lm, params, prompts, key):
        del lm, params, key
        return [
            Rollout(prompt, tuple(map(Response, texts_of(prompt))))
            for prompt in prompts
            if texts_of(prompt) is not None
        ]

    return sampler


def test_exploration_counts_prompts_with_any_right_answer():
    prompts = [user_prompt(str(i), 'Q', '3') for i in range(3)]
    texts = {'0': ['Final answer: 3', 'Final answer: 4'], '1': ['Final answer: 5'] * 2, '2': None}
    sampler = _says(lambda prompt: texts[prompt.id])
    parts = {'prompts': _asks(prompts), 'sampler': sampler, 'scorer': scorers.exact_answer}
    metrics, judgements = evals.exploration(None, None, jax.random.key(0), **parts)
    assert metrics['value'] == pytest.approx(1 / 3) and metrics['n'] == 3
    assert (metrics['low'], metrics['high']) == pytest.approx(evals.wilson(1, 3))
    assert metrics['score'] == 0.25 and metrics['best_score'] == 0.5 and len(judgements) == 2
    assert metrics['distinct_answers'] == 0.75
    single = parts | {'sampler': _says(lambda prompt: ['Final answer: 3'])}
    with pytest.raises(ValueError, match='at least two responses'):
        evals.exploration(None, None, jax.random.key(0), **single)


def _said(count):
    return ' '.join(['w'] * count)


def _limits(answers, scorer=None, **options):
    """(metrics, judgements) of prompts with references of 20 and 10, 8, and 4 words, answered in as
    many words as `answers(id, limit)` says; and the prompts that the scorer was shown.
    """
    references = {'a': (20, 10), 'b': (8,), 'c': (4,)}
    prompts = [
        user_prompt(name, f'Q {name}', responses=[_said(n) for n in counts])
        for name, counts in references.items()
    ]
    seen = []

    def sampler(lm, params, prompts, key):
        del lm, params, key
        return [Rollout(p, (Response(_said(answers(p.id[0], p.meta['limit']))),)) for p in prompts]

    def longest_wins(lm, params, rollouts, key):
        seen.extend(rollout.prompt.text for rollout in rollouts)
        return [
            Judgement(rollout, tuple(float(len(r.text)) for r in rollout.responses))
            for rollout in rollouts
        ]

    parts = {'prompts': _asks(prompts), 'sampler': sampler, 'scorer': scorer or longest_wins}
    options = {'scales': (1.0,)} | options
    return *evals.length_limits(None, None, jax.random.key(0), **parts, **options), seen


def test_a_response_over_the_limit_loses_without_being_judged_and_a_tie_is_half_a_win():
    """Limits 10, 8 and 4: one word too many, as long as the baseline, and shorter than it."""
    words = {'a': 11, 'b': 8, 'c': 3}
    metrics, judgements, seen = _limits(lambda name, limit: words[name])
    assert metrics['violations/1'] == pytest.approx(1 / 3)
    assert [judgement.scores for judgement in judgements] == [(0.0,), (0.5,), (0.0,)]
    assert metrics['value'] == metrics['wins/1'] == pytest.approx(0.5 / 3)
    assert metrics['words/1'] == pytest.approx(22 / 3) and metrics['n'] == 3
    assert seen == ['Q b', 'Q c']  # without the limit
    assert '10 words' in judgements[0].rollout.prompt.text


def test_limits_are_scaled_rounded_down_and_at_least_1():
    limits = {}

    def answer(name, limit):
        limits.setdefault(name, []).append(limit)
        return 2

    metrics, _, _ = _limits(answer, scales=(1.0, 0.5, 0.1))
    assert limits == {'a': [10, 5, 1], 'b': [8, 4, 1], 'c': [4, 2, 1]}
    assert [metrics[f'violations/{s}'] for s in ('1', '0.5', '0.1')] == [0.0, 0.0, 1.0]


def test_a_scale_that_binary_numbers_miss_takes_no_word_away():
    """0.7 of 90 words is 63, where the computer's product is a little less."""
    prompts = [user_prompt('a', 'Q', responses=[_said(90)])]
    limits = []

    def sampler(lm, params, prompts, key):
        limits.extend(prompt.meta['limit'] for prompt in prompts)
        return [Rollout(prompt, (Response(_said(99)),)) for prompt in prompts]

    parts = {'prompts': _asks(prompts), 'sampler': sampler, 'scorer': None}
    metrics, _ = evals.length_limits(None, None, jax.random.key(0), **parts, scales=(0.7,))
    assert limits == [63] and metrics['violations/0.7'] == 1.0


def test_prompts_with_short_references_can_be_left_out_and_no_verdict_is_no_loss():
    def silent(lm, params, rollouts, key):
        return [Judgement(rollout, (NAN, 1.0)) for rollout in rollouts]

    metrics, judgements, _ = _limits(lambda name, limit: 1, least=8, scorer=silent)
    assert len(judgements) == 2 and metrics['no_verdict'] == 1.0 and math.isnan(metrics['value'])
    with pytest.raises(ValueError, match='no prompt comes with responses of 50 or more words'):
        _limits(lambda name, limit: 1, least=50)


@pytest.mark.parametrize('scales', [(), (0.0,), (1.0, 1.0), ('1',), (True,)])
def test_scales_that_are_no_factors_are_refused(scales):
    with pytest.raises(ValueError, match='want'):
        evals.check_scales(scales)
