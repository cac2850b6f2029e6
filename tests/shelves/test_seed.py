"""Seed data and new prompts: ranked trees, verdicts that agree with people, Self-Instruct and its
filters.
"""

import functools
import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

from selfrew import loop
from selfrew.run import binding, turns
from selfrew.shelves import pairs, prompts, scorers
from selfrew.tasks import novelty
from selfrew.types import Example, Judgement, Response, Rollout, ask, to_json

KEY = jax.random.key(0)
NAN = float('nan')
TREES = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'oasst' / 'en_100_tree.jsonl'


# --- conversation trees -----------------------------------------------------------------------------------------------


def _said(text, rank=None, role='assistant', **fields):
    return {
        'text': text,
        'role': role,
        'lang': 'en',
        'rank': rank,
        'deleted': False,
        'review_result': True,
        **fields,
    }


def _tree(text, *replies, **fields):
    return {
        'message_tree_id': text,
        'prompt': _said(text, role='prompter', replies=list(replies), **fields),
    }


def _file(tmp_path, *found) -> str:
    path = tmp_path / 'trees.jsonl'
    path.write_text('\n'.join(map(json.dumps, found)))
    return str(path)


def _all(source, **options):
    """The prompts of each part; of one that is empty, none."""
    out = {}
    for part in prompts.PARTS:
        try:
            out[part] = prompts.trees(None, None, KEY, source=source, part=part, **options)
        except ValueError as problem:
            assert 'no prompt in' in str(problem)
            out[part] = []
    return out


def test_a_tree_gives_its_best_answer_or_all_with_grades(tmp_path):
    found = [
        _tree(f'Ask {i}', _said('worse', 2), _said('best', 0), _said('good', 1)) for i in range(60)
    ]
    parts_ = _all(_file(tmp_path, *found))
    assert sum(map(len, parts_.values())) == 60 and all(parts_.values())
    assert not set.intersection(*({p.text for p in some} for some in parts_.values()))
    assert all(p.meta == {'responses': ['best']} for p in parts_['ift'])
    for p in parts_['eft'] + parts_['heldout']:
        assert p.meta['responses'] == ['best', 'good', 'worse'] and p.meta['grades'] == [
            0.0,
            -1.0,
            -2.0,
        ]


@pytest.mark.parametrize(
    'tree',
    [
        _tree('Ask', _said('x')),  # nobody ranked it
        _tree('Ask', _said('x', 0), lang='de'),
        _tree('Ask', _said('x', 0), deleted=True),
        _tree('Ask', _said('x', 0, review_result=False)),
        _tree('Ask', _said('x', 0, lang='de')),
        _tree('Ask', _said(' ', 0)),
        _tree('Ask'),
    ],
    ids=str,
)
def test_what_was_not_ranked_or_did_not_pass_review_is_left_out(tmp_path, tree):
    assert not any(
        _all(
            _file(
                tmp_path,
                *[tree | {'prompt': tree['prompt'] | {'text': f'Ask {i}'}} for i in range(20)],
            )
        ).values()
    )


def test_rows_that_are_no_trees_are_refused(tmp_path):
    fine = [_tree(f'Ask {i}', _said('a', 0), _said('b', 1)) for i in range(60)]
    broken = [
        _tree(f'Ask {i} again', {'rank': 0, 'lang': 'en'}) for i in range(9)
    ]  # of the answer, no text
    assert sum(map(len, _all(_file(tmp_path, *fine, *broken)).values())) == 60
    torn = _file(
        tmp_path,
        *fine,
        _tree('\ud800', _said('a', 0), _said('b', 1)),
        _tree('Ask', _said('\ud800', 0)),
    )
    assert sum(map(len, _all(torn).values())) == 60
    with pytest.raises(ValueError, match='not such a row: TypeError'):
        prompts.examples(None, None, KEY, source=_file(tmp_path, {'prompt': 'Hi'}))
    with pytest.raises(ValueError, match='no tree: want a prompt'):
        prompts.trees(
            None, None, KEY, source=_file(tmp_path, {'text': 'Hi'}), part='ift', max_bad=0
        )
    with pytest.raises(ValueError, match="no part 'test'; there are: ift, eft, heldout"):
        binding.bind(
            'prompts', {'name': 'trees', 'source': _file(tmp_path, {}), 'part': 'test'}, 'x'
        )


@pytest.mark.skipif(not TREES.exists(), reason='the data sets are not here')
def test_the_published_trees_are_read():
    found = _all(str(TREES))
    assert {k: len(v) for k, v in found.items()} == {
        'ift': 68,
        'eft': 26,
        'heldout': 5,
    }  # 99 of 100 have ranked answers
    assert np.mean([len(p.meta['grades']) for p in found['eft']]) > 2.5


def test_examples_of_another_run_are_demonstrations(tmp_path):
    example = Example(
        ask('p/0', 'Judge this.'),
        (Response('Good. Score: 4', (1, 2)), Response('Bad.')),
        (4.0, 0.0),
    )
    path = tmp_path / 'examples.jsonl'
    path.write_text(json.dumps(to_json(example)))
    (found,) = prompts.examples(None, None, KEY, source=str(path))
    assert found.text == 'Judge this.' and found.meta == {'responses': ['Good. Score: 4']}


# --- verdicts that agree ----------------------------------------------------------------------------------------------


def _judged(grades, *votes) -> Judgement:
    """votes: one ranking each, a score for every response."""
    prompt = ask('p', 'Q?', grades=list(grades))
    answers = tuple(Response(f'answer {i}') for i in range(len(grades)))
    said = tuple(tuple(f'Because. Score: {v[i]}' for v in votes) for i in range(len(grades)))
    return Judgement(Rollout(prompt, answers), tuple(grades), said, tuple(zip(*votes)))


@pytest.mark.parametrize(
    'grades, votes, kept',
    [
        ((0.0, -1.0), [(5.0, 3.0)], [5.0, 3.0]),
        ((0.0, -1.0), [(3.0, 3.0)], []),
        ((0.0, -1.0), [(3.0, 4.0)], []),
        ((0.0, -1.0), [(NAN, 3.0)], []),
        (
            (0.0, -1.0),
            [(3.0, 4.0), (4.0, 1.0), (5.0, 0.0)],
            [4.0, 1.0],
        ),  # the first ranking that agrees
        (
            (0.0, -1.0, -1.0),
            [(5.0, 2.0, 3.0)],
            [5.0, 2.0, 3.0],
        ),  # people did not tell the last two apart
        ((0.0, -1.0, -2.0), [(5.0, 2.0, 3.0)], []),
    ],
)
def test_verdicts_are_kept_where_their_ranking_is_that_of_people(grades, votes, kept):
    found = list(pairs.agreeing(_judged(grades, *votes), None, template='check'))
    assert [e.scores[0] for e in found] == kept
    for i, e in enumerate(found):
        assert f'Answer: answer {i}' in e.prompt.text and 'Question: Q?' in e.prompt.text
        assert e.responses[0].text == f'Because. Score: {kept[i]}'


def test_more_rankings_of_a_prompt_can_be_kept():
    judgement = _judged((0.0, -1.0), (5.0, 3.0), (4.0, 4.0), (4.0, 1.0))
    found = list(pairs.agreeing(judgement, None, template='check', count=2))
    assert [e.scores[0] for e in found] == [5.0, 3.0, 4.0, 1.0] and len(
        {e.prompt.id for e in found}
    ) == 4


def _turn(**fields):
    entry = {
        'prompts': {'name': 'task', 'tasks': ('rising',), 'n': 1},
        'sampler': {'name': 'given'},
        'scorer': {'name': 'given'},
        'pairs': {'name': 'singles'},
        'loss': {'name': 'sft'},
        'train': {'lr': 1e-3},
    }
    (turn,) = turns.bind_turns(rounds=1, round=entry | fields)
    return turn


@pytest.mark.parametrize('balance, fours', [(None, 12), (0.5, 6), (0.25, 2), (0.9, 12)])
def test_the_most_common_score_is_thinned_out(balance, fours):
    """Twelve 4s, four 3s, two 5s: the 4s may be the share `balance`, so 6 · balance / (1 − balance)
    of them.
    """
    scores = [4.0] * 12 + [3.0] * 4 + [5.0] * 2
    judged = [
        Judgement(Rollout(ask(str(i), 'Q?'), (Response('a'),)), (s,)) for i, s in enumerate(scores)
    ]
    found = loop.pair(_turn(balance=balance), judged, KEY)
    assert [e.scores[0] for e in found].count(4.0) == fours and len(found) == fours + 6
    assert [int(e.prompt.id) for e in found] == sorted(int(e.prompt.id) for e in found)
    assert found == loop.pair(_turn(balance=balance), judged, KEY)


def test_a_balance_is_a_share_and_leaves_a_single_score_alone():
    judged = [Judgement(Rollout(ask('p', 'Q?'), (Response('a'),)), (4.0,))]
    assert len(loop.pair(_turn(balance=0.5), judged, KEY)) == 1
    with pytest.raises(ValueError, match='balance: 1.0: want more than 0 and less than 1'):
        _turn(balance=1.0)


# --- Self-Instruct ----------------------------------------------------------------------------------------------------


def _longest(one, other):
    """The plain recursion."""
    row = [0] * (len(other) + 1)
    for a in one:
        last = row[:]
        for j, b in enumerate(other):
            row[j + 1] = last[j] + 1 if a == b else max(last[j + 1], row[j])
    return row[-1]


def test_the_longest_common_subsequence_is_that_of_the_plain_recursion():
    rng = np.random.default_rng(0)
    for _ in range(300):
        one, other = (rng.choice(list('abcde'), rng.integers(0, 90)).tolist() for _ in range(2))
        assert novelty.common_length(one, other) == _longest(one, other)


def test_rouge_l_by_hand():
    one, other = (
        novelty.words('Name the capital of France.'),
        novelty.words('name a CAPITAL city of France'),
    )
    assert novelty.rouge_l(one, other) == pytest.approx(2 * 4 / (5 + 6))  # name capital of france
    assert novelty.is_similar(one, [other], 0.7) and not novelty.is_similar(one, [other], 0.73)
    assert novelty.rouge_l([], []) == 0.0 and novelty.rouge_l(one, one) == 1.0


@pytest.mark.parametrize(
    'instruction, fault',
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
def test_instructions_are_filtered_as_the_paper_does(instruction, fault):
    assert novelty.fault(instruction) == fault


SEEDS = [
    f'Explain how a {thing} works to a child.'
    for thing in 'clock kettle lock pump lamp wheel sail drum'.split()
]


@pytest.fixture
def inventing(monkeypatch):
    """A model that writes what the test says, one list after the other; collects what it was shown."""

    def invent(*texts):
        shown, lists = [], itertools.cycle(texts)

        def generate(lm, params, asked, keys, **options):
            shown.extend(lm.text.decode(tokens) for tokens in asked)
            return [t if isinstance(t, Response) else Response(t) for _, t in zip(asked, lists)]

        monkeypatch.setattr(prompts.generate, 'generate', generate)
        return shown

    return invent


@pytest.fixture
def short(tmp_path):
    path = tmp_path / 'short.jinja'
    path.write_text('{% for t in tasks %}{{ loop.index }}. {{ t[:12] }}\n{% endfor %}')
    return str(path)


def _invented(tiny, short, n, **options):
    lm, params = tiny
    entry = {
        'prompts': lambda *_: [ask(str(i), s) for i, s in enumerate(SEEDS)],
        'template': short,
        'max_tokens': 8,
    }
    return prompts.self_instruct(lm, params, KEY, n=n, **entry | {'batch': 1} | options)


def test_what_a_model_makes_up_is_kept_where_it_is_new(tiny, short, inventing):
    shown = inventing(
        ' Sort these five words by length.\n10. Explain how a clock works to a small child.\n11. Sing!\n12. Draw a cat for me.',
        Response(
            'Tell a joke about two bakers.\n10) Give me a riddle that has been cu', (), 'length'
        ),
        'Here are some more tasks for you:\n\n1. Sort these five words by length, please.\n2. List the planets by their distance.',
    )
    found = _invented(tiny, short, 3)
    assert [p.text for p in found] == [
        'Sort these five words by length.',
        'Tell a joke about two bakers.',
        'List the planets by their distance.',
    ]
    assert len({p.id for p in found}) == 3 and all(p.answer is None for p in found)
    assert shown[0].count('Explain how') == 8 and '1. Explain' in shown[0] and '8. ' in shown[0]
    assert (
        shown[1].count('Explain how') == 7 and shown[1].count('Sort these') == 1
    )  # one of its own so far


def test_a_model_that_repeats_itself_is_given_up(tiny, short, inventing):
    inventing('Sort these five words by length.')
    with pytest.raises(
        ValueError,
        match=r"3 batches of 2 requests gave 1 instructions of 2: \{'too_long': 0, 'kept': 1, 'similar': 5\}",
    ):
        _invented(tiny, short, 2, batch=2, tries=3)


def test_too_few_seeds_are_refused(tiny, short):
    with pytest.raises(ValueError, match='8 seed instructions: want at least 9'):
        _invented(tiny, short, 1, seeds=7)


def test_the_fixed_model_is_asked_in_the_place_of_the_policy(tiny, short, monkeypatch):
    lm, params = tiny
    asked = []

    def generate(lm, params, *rest, **options):
        asked.append(params)
        return [Response('Sort these five words by length.')]

    monkeypatch.setattr(prompts.generate, 'generate', generate)
    _invented((lm, None), short, 1, generator='tiny')
    jax.tree.map(np.testing.assert_array_equal, asked[0], params)


def test_the_policy_itself_goes_on_with_the_list(tiny, short):
    """No script: the tiny base writes something, and what is kept passes the filters, the same with
    every batch.
    """
    ask_for = functools.partial(
        _invented, tiny, short, 2, max_tokens=40, temperature=1.5, tries=4, batch=16
    )
    try:
        found = ask_for()
    except ValueError as problem:  # it may have no ideas; it is asked all the same
        assert '4 batches of 16 requests gave' in str(problem)
        return
    assert found == ask_for() and all(novelty.fault(p.text) is None for p in found)


def test_seed_data_of_judging_come_out_of_the_loops_own_parts(tiny):
    """Ranked answers, judged by the model, kept where the ranking agrees, by the scorer and pairs
    of a config.
    """
    lm, params = tiny
    asked = prompts.ranked(lm, params, KEY, tasks=('rising',), n=12, responses=2)
    rollouts = [Rollout(p, tuple(map(Response, p.meta['responses']))) for p in asked]
    judged = scorers.judge(
        lm, params, rollouts, KEY, template='check', votes=2, max_tokens=56, top_p=1.0
    )
    found = [e for j in judged for e in pairs.agreeing(j, None, template='check')]
    assert 4 < len(found) <= 24 and len(found) % 2 == 0
    assert all(e.responses[0].text.endswith(f'Score: {e.scores[0]:.0f}') for e in found)
