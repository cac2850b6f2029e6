"""Learning to judge: prompts over the model's own responses, verdicts on them, and what is said of
verdicts.
"""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from configs import meta_rewarding
from selfrew import loop
from selfrew.plan import planner
from selfrew.run import binding
from selfrew.run.turns import bind_turns
from selfrew.shelves import pairs, prompts, samplers, scorers
from selfrew.tasks import answers, templates
from selfrew.types import Response, Rollout, ask

KEY = jax.random.key(0)
NAN = float('nan')


def _saying(*texts):
    """A sampler whose responses to each prompt in turn are the given ones."""
    return lambda lm, params, asked, key: [
        Rollout(p, tuple(map(Response, said))) for p, said in zip(asked, texts, strict=True)
    ]


def _two(lm, params, key):
    return [ask('p', 'How many?', 8, task='word_problems'), ask('q', 'How few?')]


def _judged(*texts, **options):
    return prompts.judged(
        None, None, KEY, prompts=_two, sampler=_saying(*texts), template='check', **options
    )


def _verdicts(*said, **meta) -> Rollout:
    meta = {'judged': 'p', 'points': [0.0, 5.0]} | meta
    return Rollout(ask('judge/p/0', 'Judge this.', **meta), tuple(Response(s) for s in said))


def _same(found, wanted):
    np.testing.assert_array_equal(np.array(found, float), np.array(wanted, float))


# --- judge prompts ----------------------------------------------------------------------------------------------------


def test_each_response_is_put_before_the_judge_once_and_no_truth_with_it():
    found = _judged(('Final answer: 8', 'Final answer: 7', 'Final answer: 8'), ('I give up.',))
    assert [p.id for p in found] == ['judge/p/0', 'judge/p/1', 'judge/q/0']
    for p, of, response in zip(
        found, ('How many?', 'How many?', 'How few?'), ('8', '7', 'I give up.')
    ):
        assert of in p.text and response in p.text and p.answer is None
    assert found[0].text == templates.render(
        'check', prompt='How many?', response='Final answer: 8'
    )
    assert found[0].meta == {'judged': 'p', 'points': [0.0, 5.0]} and found[2].meta['judged'] == 'q'


def test_the_range_of_scores_is_the_templates(tmp_path):
    path = tmp_path / 'ten.jinja'
    path.write_text('{% set low, high = 1, 10 %}{{ prompt }} {{ response }}')
    (found,) = prompts.judged(
        None, None, KEY, prompts=_two, sampler=_saying(('x',), ()), template=str(path)
    )
    assert found.meta['points'] == [1.0, 10.0]
    (judged,) = scorers.consistency(
        None, None, [Rollout(found, (Response('Score: 9'), Response('Score: 11')))], KEY
    )
    _same(judged.scores, (0.5, NAN))


def test_a_response_to_another_prompt_is_the_worse_one():
    asked = [ask(f'p{i}', f'Question {i}?', task='rising') for i in range(7)]
    sampler = _saying(*([f'{i} one', f'{i} two'] for i in range(7)))
    crossed = functools.partial(
        prompts.crossed, None, None, prompts=lambda *_: asked, sampler=sampler
    )
    found = crossed(KEY)
    assert [(p.id, p.messages, p.answer) for p in found] == [
        (p.id, p.messages, None) for p in asked
    ]
    for i, p in enumerate(found):
        *own, other = p.meta['responses']
        assert (
            own == [f'{i} one', f'{i} two']
            and p.meta['grades'] == [1.0, 1.0, 0.0]
            and p.meta['task'] == 'rising'
        )
        assert other.endswith('one') and not other.startswith(str(i))
    assert len({p.meta['responses'][-1] for p in found}) == 7  # each serves once
    assert found != crossed(jax.random.key(1))
    with pytest.raises(ValueError, match='1 prompts to answer: want at least two'):
        prompts.crossed(None, None, KEY, prompts=lambda *_: asked[:1], sampler=_saying(('a',)))


# --- what is said of verdicts -----------------------------------------------------------------------------------------


def test_verdicts_vote_with_their_scores_and_what_cannot_be_read_is_no_vote_and_no_loser():
    rollout = _verdicts('Fine. Score: 5', 'Good. Score: 5.0', 'Score: 2', 'It is nice', 'Score: 7')
    (found,) = scorers.consistency(None, None, [rollout], KEY)
    _same(found.scores, (0.4, 0.4, 0.2, NAN, NAN))
    (example,) = pairs.extremes(found, np.random.default_rng(0), weigh=True)
    assert (
        example.responses[0].text in ('Fine. Score: 5', 'Good. Score: 5.0')
        and example.responses[1].text == 'Score: 2'
    )
    assert example.weight == pytest.approx(0.2)


def test_what_takes_verdicts_refuses_other_prompts():
    with pytest.raises(
        ValueError, match="prompt 'p' asks for no verdict; want such as prompts.judged makes"
    ):
        samplers.disputed(None, None, [ask('p', 'Hi')], KEY, sampler=_saying(('x',)))


def test_of_the_responses_to_a_prompt_the_most_disputed_is_taken():
    asked = _judged(('Final answer: 8', 'Final answer: 7', 'Final answer: 6'), ('a', 'b'))
    calm, wild, broken = ('Score: 4', 'Score: 5'), ('Score: 0', 'Score: 5'), ('no', 'idea')
    sampler = _saying(calm, wild, broken, broken, broken)
    found = samplers.disputed(None, None, asked, KEY, sampler=sampler)
    assert [r.prompt.id for r in found] == ['judge/p/1', 'judge/q/0']
    assert [r.text for r in found[0].responses] == list(wild)
    found = samplers.disputed(
        None, None, asked, KEY, sampler=_saying(calm, calm, wild[:1], broken, calm[:1])
    )
    assert [r.prompt.id for r in found] == [
        'judge/p/0',
        'judge/q/1',
    ]  # of equals the first; one score is better than none


def test_a_meta_judge_sees_the_task_and_both_judgements():
    said = templates.render('meta', prompt='Grade it.', first='Score: 1', second='Score: 5')
    assert (
        '<judgement A>Score: 1</judgement A>\n<judgement B>Score: 5</judgement B>' in said
        and 'Grade it.' in said
    )
    assert said.endswith('"Winner: A", "Winner: B" or "Winner: tie".')


def test_judgements_are_compared_by_the_parts_of_a_config(tiny, monkeypatch):
    """Meta-Rewarding's judge pairs: whoever says 'Score: 5' wins, wherever it stands."""
    shown = []

    def generate(lm, params, tokens, keys, **options):
        shown.extend(map(lm.text.decode, tokens))
        assert all('<judgement A>' in s for s in shown)
        place = [s.index('Score: 5<') < s.index('Score: 1<') for s in shown[-len(tokens) :]]
        return [Response(f'Winner: {"A" if first else "B"}') for first in place]

    monkeypatch.setattr(scorers.generate, 'generate', generate)
    scorer = binding.bind(
        'scorer', {'name': 'compare', 'template': 'meta', 'max_tokens': 8}, 'here'
    )
    lm, params = tiny
    roomy = dataclasses.replace(
        lm, module=lm.module.clone(config=dataclasses.replace(lm.config, max_length=4096))
    )
    (found,) = scorer(roomy, params, [_verdicts('Score: 1', 'Score: 5')], KEY)
    assert found.scores == (0.0, 1.0) and len(shown) == 2
    (example,) = pairs.extremes(found, np.random.default_rng(0))
    assert [r.text for r in example.responses] == [
        'Score: 5',
        'Score: 1',
    ] and example.prompt.text == 'Judge this.'


# --- a turn of the loop -----------------------------------------------------------------------------------------------


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
    [
        {},
        {'sampler': {'name': 'disputed', 'sampler': TURN['sampler']}},
    ],
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
    examples = loop.pair(turn, judgements, KEY)
    assert examples
    for e in examples:
        assert e.prompt.text.startswith('Check this answer') and all(r.tokens for r in e.responses)
        high, low = (answers.score(r, low=0, high=5) for r in e.responses)
        assert high != low and not math.isnan(high + low) and e.scores[0] > e.scores[1]


def test_meta_rewarding_is_the_papers_at_scale(tmp_path, monkeypatch):
    """arXiv 2407.19594, §3.1: four rounds, of which two learn to judge; length control from the
    second on.
    """
    monkeypatch.chdir(tmp_path)
    for name in ('trees.jsonl', 'eft.jsonl'):
        (tmp_path / name).write_text('')
    config = meta_rewarding.get_config('llama3_8b').to_dict()
    for turn in (config['round'], config['round']['rehearsal']['prompts']):
        turn['prompts'].pop('generator', None)  # which is not here
    fields = {name: config[name] for name in ('rounds', 'round', 'start', 'by_round')}
    turns = {turn.name: turn for turn in bind_turns(**fields)}
    assert list(turns) == ['01', '02', '02-rehearsal', '03', '03-rehearsal', '04', '05']
    answers_of = [turns[name].pairs.keywords for name in ('02', '03', '04', '05')]
    assert [k['rho'] for k in answers_of] == [0.0, 0.32, 0.32, 0.4]
    assert [k['longest'] for k in answers_of] == [2500, None, None, None]
    judges = [turns[f'{name}-rehearsal'] for name in ('02', '03')]
    assert [turn.pairs.keywords['longest'] for turn in judges] == [1100, 1000]
    for turn in judges:
        assert turn.scorer.func is scorers.compare and turn.scorer.keywords['template'] == 'meta'
        assert (
            turn.sampler.func is samplers.disputed
            and turn.sampler.keywords['sampler'].keywords['n'] == 11
        )
        assert (
            turn.prompts.keywords['template']
            == turns['02'].scorer.keywords['template']
            == 'additive'
        )
    assert planner.sampling_turn(config).name == '05'
