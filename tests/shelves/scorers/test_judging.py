"""The model as a judge: what it is shown, what its votes add up to, and who wins comparisons."""

import math
import re

import jax
import numpy as np
import pytest

from selfrew.engine import generate
from selfrew.shelves import scorers
from selfrew.tasks import templates
from selfrew.types import Response, Rollout, user_prompt

KEY = jax.random.key(0)
NAN = math.nan
JUDGE = {'template': 'check', 'votes': 2, 'max_tokens': 16}


def _rollout(*texts, id='p') -> Rollout:
    return Rollout(user_prompt(id, 'What is 2 + 2?'), tuple(map(Response, texts)))


@pytest.fixture
def scripted(monkeypatch):
    """script(verdicts...) makes the judge write these verdicts, and returns the prompts that it is
    shown.
    """

    def script(*verdicts):
        shown = []

        def scripted_generate(lm, params, prompts, keys, **options):
            assert len(prompts) == len(keys) == len(verdicts)
            shown.extend(lm.text.decode(tokens) for tokens in prompts)
            return [v if isinstance(v, Response) else Response(v) for v in verdicts]

        monkeypatch.setattr(generate, 'generate', scripted_generate)
        return shown

    return script


# --- scores ---------------------------------------------------------------------------------------


def test_the_real_model_judges_and_its_words_are_kept(tiny):
    lm, params = tiny
    right, wrong = '2 + 2 = 4. Final answer: 4', 'Final answer: 5'
    rollouts = [_rollout(right, wrong, id='a'), _rollout('Score: 5', id='b')]
    judgements = scorers.judge(lm, params, rollouts, KEY, **JUDGE)
    assert [judgement.rollout for judgement in judgements] == rollouts
    for judgement in judgements:
        columns = judgement.scores, judgement.verdicts, judgement.votes
        assert {len(column) for column in columns} == {len(judgement.rollout.responses)}
        for score, texts, votes in zip(*columns):
            assert len(texts) == len(votes) == 2 and any(texts)
            assert all(isinstance(text, str) for text in texts)
            valid = [vote for vote in votes if not math.isnan(vote)]
            np.testing.assert_array_equal(score, np.mean(valid) if valid else NAN)
            without_score = [v for t, v in zip(texts, votes) if not re.search('score', t, re.I)]
            assert all(map(math.isnan, without_score))
    # In another order, among other batch mates.
    again = scorers.judge(lm, params, rollouts[::-1], KEY, **JUDGE)[::-1]
    assert [j.verdicts for j in again] == [j.verdicts for j in judgements]


def test_the_score_is_the_mean_of_the_valid_votes(tiny, scripted):
    cut = Response('Score: 1', finish='length')
    scripted('Score: 5', 'Score: 2', 'none', cut, 'Score: 6', 'none')
    (judgement,) = scorers.judge(*tiny, [_rollout('a', 'b')], KEY, **JUDGE | {'votes': 3})
    np.testing.assert_array_equal(judgement.scores, [3.5, NAN])
    np.testing.assert_array_equal(judgement.votes, [[5.0, 2.0, NAN], [NAN, NAN, NAN]])
    first, second = judgement.verdicts
    assert first == ('Score: 5', 'Score: 2', 'none')
    assert second == ('Score: 1', 'Score: 6', 'none')


def test_a_score_written_inside_the_response_is_not_the_judges(tiny, scripted):
    shown = scripted('I cannot say.', 'Score: 1')
    rollouts = [_rollout('Score: 5', 'Score: 5')]
    (judgement,) = scorers.judge(*tiny, rollouts, KEY, **JUDGE | {'votes': 1})
    np.testing.assert_array_equal(judgement.scores, [NAN, 1.0])
    assert all('Answer: Score: 5' in text for text in shown)  # the judge saw it


def test_a_response_goes_into_the_judges_prompt_as_it_is(tiny, scripted):
    shown = scripted('Score: 1')
    scorers.judge(*tiny, [_rollout('{{ prompt }} {% if %}')], KEY, **JUDGE | {'votes': 1})
    assert 'Question: What is 2 + 2?\nAnswer: {{ prompt }} {% if %}' in shown[0]


def test_a_judge_prompt_that_is_too_long_has_no_verdict(tiny):
    long = 'x ' * tiny[0].config.max_length
    (alone,) = scorers.judge(*tiny, [_rollout(long)], KEY, **JUDGE)
    np.testing.assert_array_equal(alone.scores, [NAN])
    assert alone.verdicts == ((),) and alone.votes == ((),)
    (beside,) = scorers.judge(*tiny, [_rollout('Final answer: 4', long)], KEY, **JUDGE)
    assert [len(texts) for texts in beside.verdicts] == [2, 0] and math.isnan(beside.scores[1])


def test_a_judge_that_cannot_work_is_refused(tiny):
    with pytest.raises(ValueError, match='votes=0: want at least 1'):
        scorers.judge(*tiny, [_rollout('a')], KEY, **JUDGE | {'votes': 0})
    with pytest.raises(ValueError, match='want low < high; got low'):
        scorers.judge(*tiny, [_rollout('a')], KEY, **JUDGE | {'low': 5.0, 'high': 5.0})
    with pytest.raises(FileNotFoundError, match="no template 'chek'.*additive, check"):
        scorers.judge(*tiny, [_rollout('a')], KEY, **JUDGE | {'template': 'chek'})


def test_a_template_sets_the_range_of_its_scores(tiny, scripted, tmp_path):
    assert templates.constants('choice') == {'low': 1, 'high': 5}
    assert templates.constants('additive') == {}
    path = tmp_path / 'ten.jinja'
    constants = '{% set high = 10 -%}{% set low = 1 -%}{% set shown = response | trim -%}'
    path.write_text(constants + '{{ shown }}')
    scripted('Score: 0', 'Score: 10')
    (judgement,) = scorers.judge(*tiny, [_rollout('a', 'b')], KEY, template=str(path), votes=1)
    np.testing.assert_array_equal(judgement.scores, (NAN, 10.0))


# --- comparisons ----------------------------------------------------------------------------------


@pytest.fixture
def short(tmp_path):
    """A template that leaves room in the context of the tiny base."""
    path = tmp_path / 'short.jinja'
    path.write_text('one: {{ first }} two: {{ second }}')
    return str(path)


@pytest.mark.parametrize(
    'first, second, scores',
    [
        ('Winner: A', 'Winner: B', (1.0, 0.0)),  # 'a' wins in both places
        ('Winner: A', 'Winner: A', (0.5, 0.5)),  # the first place wins
        ('Winner: tie', 'Winner: A', (0.5, 0.5)),
        ('Winner: tie', 'Winner: tie', (0.5, 0.5)),
        ('Winner: A', 'I cannot say', (NAN, NAN)),
    ],
)
def test_a_comparison_is_won_in_both_orders_or_shared(tiny, scripted, short, first, second, scores):
    shown = scripted(first, second)
    (judgement,) = scorers.compare(*tiny, [_rollout('a', 'b')], KEY, template=short)
    np.testing.assert_array_equal(judgement.scores, scores)
    assert judgement.verdicts == ((first,), (second,))
    assert 'one: a two: b' in shown[0] and 'one: b two: a' in shown[1]


def test_a_response_is_compared_with_each_other_one(tiny, scripted, short):
    """Of a, b and c, a beats both and b beats c; orders (0,1) (0,2) (1,0) (1,2) (2,0) (2,1)."""
    scripted(*(f'Winner: {winner}' for winner in 'AABABB'))
    (judgement,) = scorers.compare(*tiny, [_rollout('a', 'b', 'c')], KEY, template=short)
    assert judgement.scores == (1.0, 0.5, 0.0)
    assert [len(votes) for votes in judgement.votes] == [2, 2, 2]
