"""Learning to judge: judge prompts over the model's own responses, and pairs of verdicts."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from configs import meta_rewarding
from selfrew import loop
from selfrew.engine import generate
from selfrew.plan import jobs
from selfrew.running import binding
from selfrew.running.turns import bind_turns
from selfrew.shelves import pairs, prompts, samplers, scorers
from selfrew.tasks import templates, verdicts
from selfrew.types import Response, Rollout, user_prompt

KEY = jax.random.key(0)
NAN = float('nan')


def _sampler(*texts):
    """A sampler that writes these texts: a tuple of them for each prompt in turn."""
    return lambda lm, params, asked, key: [
        Rollout(p, tuple(map(Response, written))) for p, written in zip(asked, texts, strict=True)
    ]


def _two_prompts(lm, params, key):
    return [user_prompt('p', 'How many?', 8, task='word_problems'), user_prompt('q', 'How few?')]


def _judged(*texts, template='check'):
    """Judge prompts over these responses to the two prompts."""
    parts = {'prompts': _two_prompts, 'sampler': _sampler(*texts)}
    return prompts.judged(None, None, KEY, template=template, **parts)


def _verdicts(*texts) -> Rollout:
    meta = {'judged': 'p', 'points': [0.0, 5.0]}
    return Rollout(user_prompt('judge/p/0', 'Judge this.', **meta), tuple(map(Response, texts)))


# --- judge prompts --------------------------------------------------------------------------------


def test_each_response_is_put_before_the_judge_once_and_no_truth_with_it():
    responses = ('Final answer: 8', 'Final answer: 7', 'Final answer: 8'), ('I give up.',)
    judged = _judged(*responses)
    assert [prompt.id for prompt in judged] == ['judge/p/0', 'judge/p/1', 'judge/q/0']
    questions, shown = ('How many?', 'How many?', 'How few?'), ('8', '7', 'I give up.')
    for prompt, question, response in zip(judged, questions, shown):
        assert question in prompt.text and response in prompt.text and prompt.answer is None
    rendered = templates.render('check', prompt='How many?', response='Final answer: 8')
    assert judged[0].text == rendered
    assert judged[0].meta == {'judged': 'p', 'points': [0.0, 5.0]}
    assert judged[2].meta['judged'] == 'q'


def test_the_range_of_scores_is_the_templates(tmp_path):
    path = tmp_path / 'ten.jinja'
    path.write_text('{% set low, high = 1, 10 %}{{ prompt }} {{ response }}')
    (prompt,) = _judged(('x',), (), template=str(path))
    assert prompt.meta['points'] == [1.0, 10.0]
    rollout = Rollout(prompt, (Response('Score: 9'), Response('Score: 11')))
    (judgement,) = scorers.consistency(None, None, [rollout], KEY)
    np.testing.assert_array_equal(judgement.scores, (0.5, NAN))


def test_a_response_to_another_prompt_is_the_worse_one():
    asked = [user_prompt(f'p{i}', f'Question {i}?', task='rising') for i in range(7)]
    responses = [[f'{i} one', f'{i} two'] for i in range(7)]
    parts = {'prompts': lambda *_: asked, 'sampler': _sampler(*responses)}
    crossed = prompts.crossed(None, None, KEY, **parts)
    same_fields = [(prompt.id, prompt.messages, None) for prompt in asked]
    assert [(prompt.id, prompt.messages, prompt.answer) for prompt in crossed] == same_fields
    for prompt, texts in zip(crossed, responses, strict=True):
        *better, worse = prompt.meta['responses']
        assert better == texts and prompt.meta['grades'] == [1.0, 1.0, 0.0]
        assert prompt.meta['task'] == 'rising'
        assert worse.endswith('one') and worse not in texts
    assert len({prompt.meta['responses'][-1] for prompt in crossed}) == 7  # each serves once
    assert crossed != prompts.crossed(None, None, jax.random.key(1), **parts)
    parts = {'prompts': lambda *_: asked[:1], 'sampler': _sampler(('a',))}
    with pytest.raises(ValueError, match='1 prompts to answer: want at least two'):
        prompts.crossed(None, None, KEY, **parts)


# --- scores of verdicts, and pairs of them --------------------------------------------------------


def test_verdicts_vote_with_their_scores_and_unreadable_ones_neither_vote_nor_lose():
    rollout = _verdicts('Fine. Score: 5', 'Good. Score: 5.0', 'Score: 2', 'It is nice', 'Score: 7')
    (judgement,) = scorers.consistency(None, None, [rollout], KEY)
    np.testing.assert_array_equal(judgement.scores, (0.4, 0.4, 0.2, NAN, NAN))
    (example,) = pairs.extremes(judgement, np.random.default_rng(0), weigh=True)
    winner, loser = example.responses
    assert winner.text in ('Fine. Score: 5', 'Good. Score: 5.0') and loser.text == 'Score: 2'
    assert example.weight == pytest.approx(0.2)


def test_prompts_that_ask_for_no_verdict_are_refused():
    with pytest.raises(
        ValueError, match="prompt 'p' does not ask for a verdict; want prompts from prompts.judged"
    ):
        samplers.disputed(None, None, [user_prompt('p', 'Hi')], KEY, sampler=_sampler(('x',)))


def test_of_the_responses_to_a_prompt_the_most_disputed_is_taken():
    asked = _judged(('Final answer: 8', 'Final answer: 7', 'Final answer: 6'), ('a', 'b'))
    calm, wild, unreadable = ('Score: 4', 'Score: 5'), ('Score: 0', 'Score: 5'), ('no', 'idea')
    sampler = _sampler(calm, wild, unreadable, unreadable, unreadable)
    rollouts = samplers.disputed(None, None, asked, KEY, sampler=sampler)
    assert [rollout.prompt.id for rollout in rollouts] == ['judge/p/1', 'judge/q/0']
    assert [response.text for response in rollouts[0].responses] == list(wild)
    # Of equals the first is taken; one score is better than none.
    sampler = _sampler(calm, calm, wild[:1], unreadable, calm[:1])
    rollouts = samplers.disputed(None, None, asked, KEY, sampler=sampler)
    assert [rollout.prompt.id for rollout in rollouts] == ['judge/p/0', 'judge/q/1']


def test_judgements_are_compared_by_the_parts_of_a_config(tiny, monkeypatch):
    """Meta-Rewarding's judge pairs: 'Score: 5' wins in both places."""
    shown = []

    def prefer_score_5(lm, params, tokens, keys, **options):
        texts = [lm.text.decode(prompt) for prompt in tokens]
        shown.extend(texts)
        assert all('<judgement A>' in text for text in texts)
        is_first = [text.index('Score: 5<') < text.index('Score: 1<') for text in texts]
        return [Response(f'Winner: {"A" if first else "B"}') for first in is_first]

    monkeypatch.setattr(generate, 'generate', prefer_score_5)
    entry = {'name': 'compare', 'template': 'meta', 'max_tokens': 8}
    scorer = binding.bind('scorer', entry, 'round.scorer')
    lm, params = tiny
    config = dataclasses.replace(lm.config, max_length=4096)
    lm = dataclasses.replace(lm, module=lm.module.clone(config=config))
    (judgement,) = scorer(lm, params, [_verdicts('Score: 1', 'Score: 5')], KEY)
    assert judgement.scores == (0.0, 1.0) and len(shown) == 2
    (example,) = pairs.extremes(judgement, np.random.default_rng(0))
    assert [response.text for response in example.responses] == ['Score: 5', 'Score: 1']
    assert example.prompt.text == 'Judge this.'


# --- a turn of the loop ---------------------------------------------------------------------------


TURN = {
    'prompts': {
        'name': 'judged',
        'template': 'check',
        'prompts': {'name': 'task', 'tasks': ('word_problems',), 'n': 8},
        'sampler': {'name': 'sample', 'n': 4, 'max_tokens': 40},
    },
    'sampler': {'name': 'sample', 'n': 4, 'max_tokens': 56},
    'scorer': {'name': 'consistency'},
    'pairs': {'name': 'extremes', 'weigh': True},
    'loss': {'name': 'dpo', 'beta': 0.1},
    'train': {'lr': 1e-5, 'batch': 8, 'row_length': 256},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [{}, {'sampler': {'name': 'disputed', 'sampler': TURN['sampler']}}],
    ids=['all', 'disputed'],
)
def test_a_turn_learns_from_pairs_of_verdicts_the_model_wrote(tiny, change):
    lm, params = tiny
    (turn,) = bind_turns(rounds=1, round=TURN | change)
    asked = turn.prompts(lm, params, KEY)
    rollouts = turn.sampler(lm, params, asked, KEY)
    assert {r.prompt.id for r in rollouts} <= {p.id for p in asked}
    if 'sampler' in change:
        assert len(rollouts) == len({p.meta['judged'] for p in asked})
    judgements = turn.scorer(lm, params, rollouts, KEY)
    examples = loop.make_examples(turn, judgements, KEY)
    assert examples
    for example in examples:
        assert example.prompt.text.startswith('Check this answer')
        assert all(response.tokens for response in example.responses)
        winner, loser = example.responses
        chosen = verdicts.score(winner, low=0, high=5)
        rejected = verdicts.score(loser, low=0, high=5)
        assert chosen != rejected and not math.isnan(chosen + rejected)
        assert example.scores[0] > example.scores[1]


def test_the_meta_rewarding_config_is_the_papers_at_scale(tmp_path, monkeypatch):
    """arXiv 2407.19594, §3.1: four rounds, of which two learn to judge; length control from the
    second on.
    """
    monkeypatch.chdir(tmp_path)
    for name in ('trees.jsonl', 'eft.jsonl'):
        (tmp_path / name).write_text('')
    config = meta_rewarding.get_config('llama3_8b').to_dict()
    for turn in (config['round'], config['round']['join']['verdicts']['prompts']):
        turn['prompts'].pop('generator', None)  # a model that is not on this machine
    fields = {name: config[name] for name in ('rounds', 'round', 'start', 'by_round')}
    turns = {turn.name: turn for turn in bind_turns(**fields)}
    assert list(turns) == ['01', '02', '03', '04', '05']
    joined = {name: turn.joined for name, turn in turns.items() if turn.joined}
    assert list(joined) == ['02', '03']  # trained together with the answers
    answer_pairs = [turns[name].pairs.keywords for name in ('02', '03', '04', '05')]
    assert [options['rho'] for options in answer_pairs] == [0.0, 0.32, 0.32, 0.4]
    assert [options['longest'] for options in answer_pairs] == [2500, None, None, None]
    assert turns['02'].scorer.keywords['template'] == 'additive'
    judge_turns = [pipeline for (pipeline,) in joined.values()]
    assert [turn.pairs.keywords['longest'] for turn in judge_turns] == [1100, 1000]
    for turn in judge_turns:
        assert turn.prompts.keywords['template'] == 'additive'
        assert turn.sampler.func is samplers.disputed
        assert turn.sampler.keywords['sampler'].keywords['n'] == 11
        assert turn.scorer.func is scorers.compare and turn.scorer.keywords['template'] == 'meta'
    assert jobs.sampling_turn(config).name == '03'
