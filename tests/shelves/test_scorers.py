"""Scorers: what is read from a verdict and from an answer, what nan does, and the shelf's contract."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfrew.models import decoder, hf, language_model
from selfrew.run import binding, turn_stats
from selfrew.shelves import prompts, scorers
from selfrew.tasks import answers, templates
from selfrew.types import Judgement, Prompt, Response, Rollout, ask

KEY = jax.random.key(0)
NAN = math.nan


def _rollout(*texts, answer=None, id='p', **meta) -> Rollout:
    return Rollout(ask(id, 'What is 2 + 2?', answer, **meta), tuple(map(Response, texts)))


def _same(found, wanted):
    np.testing.assert_array_equal(np.array(found, float), np.array(wanted, float))


# --- reading a verdict ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'text, score',
    [
        ('Score: 4', 4),
        ('It is direct and complete.\nScore: 4', 4),
        ('score:4', 4),
        ('SCORE : 0', 0),
        ('Total score: 3.', 3),
        ('Score: 4.5', 4.5),
        ('Score: 5.0', 5),
        ('**Score:** 4', 4),
        ('**Score: 4**', 4),
        ('*Score*: _4_', 4),
        ('Score: 2. On reflection, Score: 4', 4),  # it concludes with the last
        ('Score: 4/5', 4),
        ('Score: 4 / 5', 4),
        ('Score: 4 out of 5', 4),
        ('Score: 4 of 5', 4),
        ('Score: 4 points', 4),
    ],
)
def test_the_score_that_a_verdict_concludes_with_is_read(text, score):
    assert answers.score(Response(text), low=0.0, high=5.0) == score


@pytest.mark.parametrize(
    'text',
    [
        '',
        'It is good.',
        'Four points.',
        '4',
        'It earns 4 points of 5.',  # nothing says that this is the score
        'Score: N',
        'Score: five',
        'Score:',
        'Score: six of 5',
        'Score: 6',  # out of range
        'Score: 55',  # not a 5 with a 5 behind it
        'Score: 5.1',
        'Score: -1',
        'Score: 6 of 5',
        'Score: 4/10',  # of another range
        'Score: 4 out of 10',
        'Score: 8/10',
        'Score: 4/50',
        'Score: 4/5/5',
        'Score: 4. No, Score: 6',  # the last one is what counts, even where it cannot be read
        'Score: 4. Score: unknown',
        'Score: 0 to 5',  # the instruction, repeated
        'Score: 4-5',
        'Score: 4,5',
        'Score: 4 out of ten',
        'Score: 4%',
        'Score: 3e9',
        'Score: 4/5.5',
        'Score:\n1. good',
        'Underscore: 3',
    ],
)
def test_what_is_no_score_of_the_range_is_no_verdict(text):
    assert math.isnan(answers.score(Response(text), low=0.0, high=5.0))


def test_a_verdict_cut_by_the_limit_has_not_concluded():
    assert math.isnan(answers.score(Response('Score: 4', finish='length'), low=0.0, high=5.0))


def test_the_range_of_a_score_is_the_judges():
    def read(text):
        return answers.score(Response(text), low=-1.0, high=10.0)

    assert (read('Score: 8/10'), read('Score: 10'), read('Score: -1')) == (8.0, 10.0, -1.0)
    assert math.isnan(read('Score: 4/5')) and math.isnan(read('Score: 11'))


# --- exact answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'answer, response, right',
    [
        ('18', 'Final answer: 18', 1),
        (18, '9 * 2 = 18.\n#### 18', 1),
        (18, 'Final answer: 18.', 1),
        (18, 'Final answer: 18.00', 1),
        (18, 'Final answer: $18', 1),
        ('9 * 2 = <<9*2=18>>18\n#### 18', '#### 18', 1),  # the truth as GSM8K has it
        ('1,250', 'So there are 1250. #### 1250', 1),
        (1250, 'Final answer: $1,250.00', 1),
        (-3, 'Final answer: -3', 1),
        (18, 'So it is \\boxed{18}.', 1),
        ('\\frac{1}{2}', 'Thus $\\boxed{\\frac{1}{2}}$.', 1),
        (18, 'Final answer: $\\boxed{18}$', 1),
        (18, '#### 17\nNo, that is wrong.\n#### 18', 1),  # the last one counts
        (18, '#### 18\n#### 17', 0),
        (18, '\\boxed{18} or rather \\boxed{81}', 0),
        ('B', 'Final answer: (B)', 1),
        ('(b)', 'Final answer: B', 1),
        ('B', 'Final answer: (C)', 0),
        (18, '**Final answer:** 18', 1),
        (18, '**Final answer: 18**', 1),
        (18, 'Final Answer:\n18', 1),
        (18, '#### 18 eggs', 1),
        (18, '\\boxed{18\\%}', 1),
        (18, 'So \\boxed{\\$18}', 1),
        ('B', '\\boxed{\\text{B}}', 1),
        (5, 'Final answer: (5)', 1),
        (10, 'Final answer: 1_0', 0),
        (12, 'Final answer: 1,2', 0),
        ('Paris', 'Final answer: paris.', 1),
        (18, 'Final answer: 180', 0),
        (18, 'Final answer: eighteen', 0),
        (18, '18', 0),  # it concludes with nothing
        (18, '', 0),
        (18, 'Final answer:', 0),
        (0, 'Final answer: 0', 1),
        (0, 'Final answer:', 0),
        (None, 'Final answer: 18', NAN),
        (None, '', NAN),
    ],
)
def test_an_exact_answer_is_right_as_a_number_or_as_text(answer, response, right):
    (judgement,) = scorers.exact_answer(None, None, [_rollout(response, answer=answer)], KEY)
    _same(judgement.scores, [right])


def test_built_in_tasks_judge_their_own_responses():
    asked = prompts.task(None, None, KEY, tasks=('word_problems', 'rising'), n=40, answers=True)
    for prompt in asked:
        if prompt.meta['task'] == 'rising':
            good = ', '.join(str(prompt.answer['low'] + i) for i in range(prompt.answer['count']))
            bad = prompt.answer['low']
        else:
            good, bad = prompt.answer, prompt.answer + 1
        rollout = Rollout(
            prompt,
            tuple(Response(f'Final answer: {a}') for a in (good, bad, '')) + (Response('Hm.'),),
        )
        assert scorers.exact_answer(None, None, [rollout], KEY)[0].scores == (1.0, 0.0, 0.0, 0.0)
    blind = Prompt(prompt.id, prompt.messages, None, prompt.meta)
    _same(
        scorers.exact_answer(None, None, [Rollout(blind, rollout.responses)], KEY)[0].scores,
        [NAN] * 4,
    )


# --- length, given, composite -----------------------------------------------------------------------------------------


def test_consistency_is_the_share_that_ends_with_the_same_answer():
    texts = 'Final answer: 8', '#### 8.0', 'Final answer: 7', 'I give up.', 'No. \\boxed{8}'
    (found,) = scorers.consistency(
        None, None, [Rollout(ask('p', 'Q?'), tuple(map(Response, texts)))], None
    )
    assert found.scores == (0.6, 0.6, 0.2, 0.0, 0.6)


def test_length_counts_tokens_and_a_target_is_best_met(tiny):
    lm, params = tiny
    sampled, text = Response('?', tokens=(7, 8, 9)), 'Final answer: 12'
    rollout, count = Rollout(ask('p', 'Q?'), (sampled, Response(text))), len(lm.text.encode(text))
    assert count > 3
    assert scorers.length(lm, params, [rollout], KEY)[0].scores == (3.0, count)
    assert scorers.length(lm, params, [rollout], KEY, target=4)[0].scores == (-1.0, 4.0 - count)
    assert scorers.length(lm, params, [rollout], KEY, target=count)[0].scores == (3.0 - count, 0.0)


def test_given_grades_are_taken_and_demonstrations_trusted():
    graded, plain = _rollout('a', 'b', grades=[5, 2]), _rollout('a', 'b', 'c')
    assert [j.scores for j in scorers.given(None, None, [graded, plain], KEY)] == [
        (5.0, 2.0),
        (1.0, 1.0, 1.0),
    ]


def _fixed(*scores, verdicts=(), votes=()):
    return lambda lm, params, rollouts, key: [
        Judgement(r, scores, verdicts, votes) for r in rollouts
    ]


def test_grades_that_do_not_match_their_responses_are_refused():
    with pytest.raises(ValueError, match='3 grades and 1 responses'):
        scorers.given(None, None, [_rollout('a', grades=[1, 2, 3])], KEY)


def test_a_composite_is_the_weighted_sum_and_keeps_the_first_verdicts():
    first = _fixed(1.0, 2.0, verdicts=(('x',), ('y',)), votes=((1.0,), (2.0,)))
    (found,) = scorers.composite(
        None,
        None,
        [_rollout('a', 'b')],
        KEY,
        scorers=(first, _fixed(10.0, 30.0)),
        weights=(2.0, -0.1),
    )
    assert found.scores == pytest.approx((1.0, 1.0))  # 2 - 1 and 4 - 3
    assert found.verdicts == (('x',), ('y',)) and found.votes == ((1.0,), (2.0,))


@pytest.mark.parametrize('weights', [(1.0, 1.0), (1.0, 0.0)])
def test_no_verdict_of_one_is_no_verdict_of_the_composite(weights):
    both = _fixed(1.0, 2.0, NAN), _fixed(1.0, NAN, 3.0)
    (found,) = scorers.composite(
        None, None, [_rollout('a', 'b', 'c')], KEY, scorers=both, weights=weights
    )
    _same(found.scores, [sum(weights), NAN, NAN])


def test_a_composite_wants_a_weight_for_each_scorer():
    for parts_, weights in (((_fixed(1.0),), (1.0, 2.0)), ((_fixed(1.0),), ()), ((), ())):
        with pytest.raises(ValueError, match=f'{len(parts_)} scorers and {len(weights)} weights'):
            scorers.composite(None, None, [_rollout('a')], KEY, scorers=parts_, weights=weights)


# --- the judge --------------------------------------------------------------------------------------------------------

JUDGE = dict(template='check', votes=2, max_tokens=16)


@pytest.fixture
def scripted(monkeypatch):
    """Makes the judge write what the test says: a list of texts, a vote each. Collects the prompts
    it was shown.
    """

    def script(*texts):
        shown = []

        def generate(lm, params, asked, keys, **options):
            assert len(asked) == len(keys) == len(texts)
            shown.extend(lm.text.decode(tokens) for tokens in asked)
            return [t if isinstance(t, Response) else Response(t) for t in texts]

        monkeypatch.setattr(scorers.generate, 'generate', generate)
        return shown

    return script


def test_the_real_model_judges_and_its_words_are_kept(tiny):
    lm, params = tiny
    rollouts = [
        _rollout('2 + 2 = 4. Final answer: 4', 'Final answer: 5', id='a'),
        _rollout('Score: 5', id='b'),
    ]
    found = scorers.judge(lm, params, rollouts, KEY, **JUDGE)
    assert [j.rollout for j in found] == rollouts
    for judgement in found:
        columns = judgement.scores, judgement.verdicts, judgement.votes, judgement.rollout.responses
        assert len(set(map(len, columns))) == 1
        for score, words, votes in zip(judgement.scores, judgement.verdicts, judgement.votes):
            assert (
                len(words) == len(votes) == 2
                and any(words)
                and all(isinstance(w, str) for w in words)
            )
            valid = [v for v in votes if not math.isnan(v)]
            _same([score], [np.mean(valid) if valid else NAN])
            assert all(
                math.isnan(v) for w, v in zip(words, votes) if not re.search('score', w, re.I)
            )
    again = scorers.judge(lm, params, rollouts[::-1], KEY, **JUDGE)[::-1]
    assert [j.verdicts for j in again] == [
        j.verdicts for j in found
    ]  # whatever it is judged beside


def test_the_score_is_the_mean_of_the_valid_votes(tiny, scripted):
    scripted(
        'Score: 5', 'Score: 2', 'none', Response('Score: 1', finish='length'), 'Score: 6', 'none'
    )
    (found,) = scorers.judge(
        *tiny, [_rollout('a', 'b')], KEY, template='check', votes=3, max_tokens=16
    )
    _same(found.scores, [3.5, NAN])
    _same(found.votes, [[5.0, 2.0, NAN], [NAN, NAN, NAN]])
    assert found.verdicts == (('Score: 5', 'Score: 2', 'none'), ('Score: 1', 'Score: 6', 'none'))


def test_a_score_written_inside_the_response_is_not_the_judges(tiny, scripted):
    shown = scripted('I cannot say.', 'Score: 1')
    (found,) = scorers.judge(
        *tiny, [_rollout('Score: 5', 'Score: 5')], KEY, template='check', votes=1, max_tokens=16
    )
    _same(found.scores, [NAN, 1.0])
    assert all('Answer: Score: 5' in text for text in shown)  # the judge saw it


def test_a_response_goes_into_the_judges_prompt_as_it_is(tiny, scripted):
    shown = scripted('Score: 1')
    scorers.judge(
        *tiny, [_rollout('{{ prompt }} {% if %}')], KEY, template='check', votes=1, max_tokens=16
    )
    assert 'Question: What is 2 + 2?\nAnswer: {{ prompt }} {% if %}' in shown[0]


def test_a_judge_prompt_that_is_too_long_has_no_verdict_and_is_no_crash(tiny):
    long = 'x ' * tiny[0].config.max_length
    (alone,) = scorers.judge(*tiny, [_rollout(long)], KEY, **JUDGE)
    _same(alone.scores, [NAN])
    assert alone.verdicts == ((),) and alone.votes == ((),)
    (beside,) = scorers.judge(*tiny, [_rollout('Final answer: 4', long)], KEY, **JUDGE)
    assert [len(words) for words in beside.verdicts] == [2, 0] and math.isnan(beside.scores[1])


def test_a_judge_that_cannot_work_is_refused(tiny):
    for wrong in ({'votes': 0}, {'low': 5.0, 'high': 5.0}):
        with pytest.raises(ValueError, match='votes=0: want at least 1|want low < high; got low'):
            scorers.judge(*tiny, [_rollout('a')], KEY, **JUDGE | wrong)
    with pytest.raises(FileNotFoundError, match="no template 'chek'.*additive, check"):
        scorers.judge(*tiny, [_rollout('a')], KEY, **JUDGE | {'template': 'chek'})


# --- the shelf --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', binding.part_names('scorer', scorers))
def test_every_scorer_keeps_the_contract(name, tiny, rewarding):
    """A judgement for each rollout, in order, with a float for each response; the same for the same
    key.
    """
    options = {
        'judge': JUDGE,
        'composite': {'scorers': (scorers.exact_answer, scorers.length), 'weights': (1.0, 0.5)},
    }
    options['reward_model'] = {'checkpoint': rewarding[0]}
    scorer = functools.partial(getattr(scorers, name), **options.get(name, {}))
    rollouts = [
        _rollout('#### 4', 'five', answer=4, id='a'),
        _rollout('#### 4', id='b'),
        _rollout('', id='c'),
    ]
    rollouts += [_rollout(id='d')]
    found, again = scorer(*tiny, rollouts, KEY), scorer(*tiny, rollouts, KEY)
    assert [j.rollout for j in found] == rollouts
    for one, two in zip(found, again):
        assert isinstance(one, Judgement) and len(one.scores) == len(one.rollout.responses)
        assert all(type(score) is float for score in one.scores)
        _same(one.scores, two.scores)
        assert one.verdicts == two.verdicts
    assert scorer(*tiny, [], KEY) == []


# --- a reward model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def rewarding(tmp_path_factory, tiny):
    """A folder with the tiny base as a ...ForSequenceClassification whose head is random, and its
    parameters.
    """
    (lm, params), folder = tiny, str(tmp_path_factory.mktemp('reward'))
    lm.text.tokenizer.save_pretrained(folder)
    fields = hf.read_json(language_model.TINY) | {
        'architectures': ['LlamaForSequenceClassification'],
        'id2label': {'0': 'good'},
    }
    config = dataclasses.replace(lm.config, scalar_head=True)
    params = params | {'scalar': jax.random.normal(jax.random.key(2), (lm.config.width, 1))}
    hf.write(folder, fields, config, params)
    return folder, decoder.make_module(config), params


def test_a_reward_is_the_scalar_at_the_end_of_the_conversation(tiny, rewarding):
    folder, module, params = rewarding
    rollouts = [_rollout('4', 'It is 4, as 2 + 2 = 4.', 'x ' * 600), _rollout('5', id='q')]
    first, second = scorers.reward_model(*tiny, rollouts, KEY, checkpoint=folder, rows=2)
    text = tiny[0].text
    tokens = text.prompt_tokens(rollouts[0].prompt) + text.response_tokens(
        '4', 'stop'
    )  # the template closes as a response ends
    assert text.conversation_tokens(rollouts[0].prompt, '4') == tokens
    n = len(tokens)
    hidden, _ = module.apply(
        {'params': params},
        np.array([tokens]),
        np.arange(n)[None],
        np.tril(np.ones((n, n), bool))[None],
    )
    assert first.scores[0] == pytest.approx(
        float(decoder.scalar_value(params, hidden[0, -1:])[0]), abs=1e-4
    )
    assert (
        math.isnan(first.scores[2]) and len({*first.scores[:2], *second.scores}) == 3
    )  # too long: no verdict


def test_a_reward_does_not_depend_on_its_batch_mates_or_the_mesh(rewarding):
    rollouts = [_rollout('4', 'four', 'It is 4, as 2 + 2 = 4.'), _rollout('5', id='q')]
    one, other = (
        language_model.load(folder='tiny'),
        language_model.load(folder='tiny', fsdp=4, tensor=2),
    )
    score = functools.partial(scorers.reward_model, checkpoint=rewarding[0])
    want = [j.scores for j in score(*one, rollouts, KEY)]
    found = [score(*one, [r], KEY, rows=1)[0].scores for r in rollouts]
    spread = [j.scores for j in score(*other, rollouts, KEY)]
    for a, b, c in zip(want, found, spread):
        np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(a, c, atol=1e-4)


def test_a_reward_model_is_looked_up_at_start(rewarding):
    entry = {'name': 'reward_model', 'checkpoint': rewarding[0]}
    assert binding.bind('scorer', entry, 'round.scorer').keywords == {'checkpoint': rewarding[0]}
    with pytest.raises(ValueError, match='round.scorer .*checkpoint: tiny has no scalar head'):
        binding.bind('scorer', entry | {'checkpoint': 'tiny'}, 'round.scorer')
    with pytest.raises(ValueError, match="checkpoint: no model folder 'nowhere'"):
        binding.bind('scorer', entry | {'checkpoint': 'nowhere'}, 'round.scorer')


# --- what a turn's log says of its scores -----------------------------------------------------------------------------


def test_counts_say_how_scores_lie_and_how_far_votes_agree():
    """Scores 5, 1, 4; of the pairs of valid votes 1 in 1 + 0 in 1 + 0 in 0 agree; longer responses
    score less.
    """
    prompt = ask('p', 'Q?')
    first = Judgement(
        Rollout(prompt, (Response('ab'), Response('abcd'))),
        (5.0, 1.0),
        (),
        ((5.0, 5.0, NAN), (0.0, 2.0)),
    )
    second = Judgement(
        Rollout(prompt, (Response('abc'), Response('a' * 99))), (4.0, NAN), (), ((4.0,), (NAN,))
    )
    found = turn_stats.summarize([prompt] * 2, [first, second], [])
    assert [found[f'scores/{k}'] for k in range(6)] == pytest.approx([0, 1 / 3, 0, 0, 1 / 3, 1 / 3])
    assert found['agreement'] == 0.5 and found['full_scores'] == pytest.approx(1 / 3)
    assert found['length_score'] == pytest.approx(-1.0)
    assert found['parse_failures'] == pytest.approx(2 / 7) and found['no_verdict'] == 0.5


def test_scores_without_votes_have_no_histogram():
    judged = Judgement(Rollout(ask('p', 'Q?'), (Response('a'), Response('b'))), (1.0, 0.0))
    assert not {'agreement', 'scores/1', 'length_score', 'full_scores'} & set(
        turn_stats.summarize([0], [judged], [])
    )


# --- expected scores, and comparisons ---------------------------------------------------------------------------------


def test_an_expected_score_is_the_mean_over_what_could_stand_there(tiny):
    """Against a plain forward pass: the scores are one token each, so their logits at that place
    say it all.
    """
    lm, params = tiny
    asked = prompts.ranked(lm, params, KEY, tasks=('word_problems',), n=4)
    rollouts = [Rollout(p, tuple(map(Response, p.meta['responses']))) for p in asked]
    judge = functools.partial(
        scorers.judge, lm, params, rollouts, KEY, template='check', votes=1, max_tokens=64
    )
    drawn, means = judge(), judge(expected=True)
    ids = [lm.text.encode(f' {k}') for k in range(6)]
    assert all(len(i) == 1 for i in ids)

    @jax.jit
    def scores_of(tokens, at):
        seen = jnp.tril(jnp.ones((1, 256, 256), bool))
        hidden, _ = lm.module.apply({'params': params}, tokens, jnp.arange(256)[None], seen)
        return jax.nn.softmax(
            decoder.logits(lm.module, params, hidden[0, at][None])[0, np.ravel(ids)]
        )

    apart = 0
    for d, m in zip(drawn, means):
        assert d.verdicts == m.verdicts
        for response, words, vote, mean in zip(d.rollout.responses, d.verdicts, d.votes, m.votes):
            said = templates.render('check', prompt=d.rollout.prompt.text, response=response.text)
            tokens = [
                *lm.text.prompt_tokens(ask('', said)),
                *lm.text.encode(words[0][: words[0].rindex(' ')]),
            ]
            likely = scores_of(np.array([tokens + [0] * (256 - len(tokens))]), len(tokens) - 1)
            assert mean[0] == pytest.approx(float(likely @ np.arange(6.0)), abs=1e-3)
            apart += abs(mean[0] - vote[0]) > 1e-3
    assert apart  # it is not just what was drawn


def test_a_score_that_the_tokenizer_cuts_otherwise_is_taken_as_drawn(tiny):
    lm, params = tiny
    said = 'Score: 4'
    (found,) = scorers._expected(
        lm, params, [(lm.text.prompt_tokens(ask('', 'Hi')), tuple(lm.text.encode(said)))], ['14', '24']
    )
    assert found is None


@pytest.mark.parametrize(
    'said, won',
    [
        ('A is right. Winner: A', 1.0),
        ('Winner: B', 0.0),
        ('**Winner:** tie', 0.5),
        ('[[B]]', 0.0),
        ('[[C]]', 0.5),
        ('winner: [Judgement A]', 1.0),
        ('Winner: A? No. Winner: Answer B.', 0.0),
        ('A wins', NAN),
        ('Winner: Bob', NAN),
        ('', NAN),
    ],
)
def test_a_verdict_names_its_winner_last(said, won):
    _same([answers.winner(Response(said))], [won])
    _same([answers.winner(Response(said, (), 'length'))], [NAN])


@pytest.fixture
def short(tmp_path):
    """A template that leaves room in the context of the tiny base."""
    path = tmp_path / 'short.jinja'
    path.write_text('one: {{ first }} two: {{ second }}')
    return str(path)


def test_the_template_that_ships_shows_both_answers_and_says_how_to_conclude():
    said = templates.render('pairwise', prompt='Q?', first='one', second='two')
    assert '<answer A>one</answer A>\n<answer B>two</answer B>' in said and 'User: Q?' in said
    assert [answers.winner(Response(w)) for w in ('Winner: A', 'Winner: B', 'Winner: tie')] == [
        1.0,
        0.0,
        0.5,
    ]
    assert said.endswith('"Winner: A", "Winner: B" or "Winner: tie".')


@pytest.mark.parametrize(
    'first, second, scores',
    [
        ('Winner: A', 'Winner: B', (1.0, 0.0)),  # 'a' wins, standing first and standing second
        ('Winner: A', 'Winner: A', (0.5, 0.5)),  # the place wins
        ('Winner: tie', 'Winner: A', (0.5, 0.5)),
        ('Winner: tie', 'Winner: tie', (0.5, 0.5)),
        ('Winner: A', 'I cannot say', (NAN, NAN)),
    ],
)
def test_a_comparison_is_won_in_both_orders_or_shared(tiny, scripted, short, first, second, scores):
    lm, params = tiny
    shown = scripted(first, second)
    (found,) = scorers.compare(lm, params, [_rollout('a', 'b')], KEY, template=short)
    _same(found.scores, scores)
    assert found.verdicts == ((first,), (second,))
    assert 'one: a two: b' in shown[0] and 'one: b two: a' in shown[1]


def test_a_response_meets_each_other_one(tiny, scripted, short):
    """Of a, b and c, a beats both and b beats c; orders (0,1) (0,2) (1,0) (1,2) (2,0) (2,1)."""
    lm, params = tiny
    scripted(*(f'Winner: {w}' for w in 'AABABB'))
    (found,) = scorers.compare(lm, params, [_rollout('a', 'b', 'c')], KEY, template=short)
    assert found.scores == (1.0, 0.5, 0.0) and [len(v) for v in found.votes] == [2, 2, 2]


def test_a_template_says_the_range_of_its_scores(tiny, scripted, tmp_path):
    lm, params = tiny
    assert (
        templates.constants('choice') == {'low': 1, 'high': 5}
        and templates.constants('additive') == {}
    )
    path = tmp_path / 'mine.jinja'
    path.write_text(
        '{% set high = 10 -%}{% set low = 1 -%}{% set said = response | trim -%}{{ said }}'
    )
    scripted('Score: 0', 'Score: 10')
    (found,) = scorers.judge(lm, params, [_rollout('a', 'b')], KEY, template=str(path), votes=1)
    _same(found.scores, (NAN, 10.0))
