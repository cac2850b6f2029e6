"""Pairs from files: every form gives the prompt, both responses and their grades; bad rows none."""

import logging

import data_sets
import jax
import pytest

from selfrew.mesh import keys
from selfrew.shelves import pairs, prompts, samplers, scorers
from selfrew.types import Example, Response, to_json, user_prompt

KEY = jax.random.key(0)
USER = {'role': 'user', 'content': 'Sky?'}
BLUE, GREEN = ({'role': 'assistant', 'content': text} for text in ('Blue.', 'Green.'))


def _preferences(source, **options):
    return prompts.preferences(None, None, KEY, source=str(source), **options)


FORMS = {
    'texts': {'prompt': 'Sky?', 'chosen': 'Blue.', 'rejected': 'Green.'},
    'messages': {'prompt': [USER], 'chosen': [BLUE], 'rejected': [GREEN]},
    'messages with the prompt': {
        'prompt': 'Sky?',
        'chosen': [USER, BLUE],
        'rejected': [USER, GREEN],
    },
    'messages alone': {'chosen': [USER, BLUE], 'rejected': [USER, GREEN]},
    'dialogues': {
        'chosen': '\n\nHuman: Sky?\n\nAssistant: Blue.',
        'rejected': '\n\nHuman: Sky?\n\nAssistant: Green.',
    },
    'texts alone': {'chosen': 'Sky? Blue.', 'rejected': 'Sky? Green.'},
}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_gives_the_prompt_and_both_responses_best_first(write_rows, form):
    (prompt,) = _preferences(write_rows(FORMS[form]))
    assert prompt.messages == (USER,)
    assert prompt.meta == {'responses': ['Blue.', 'Green.'], 'grades': [1.0, 0.0]}


def test_a_dialogue_of_several_turns_is_split_before_the_last_answer(write_rows):
    start = '\n\nHuman: Hi\n\nAssistant: Hello.\nYes?\n\nHuman: Sky?\n\nAssistant:'
    row = {'chosen': f'{start} Blue.\n\nReally.', 'rejected': f'{start} Blue, or green.'}
    (prompt,) = _preferences(write_rows(row))
    assert [m['role'] for m in prompt.messages] == ['user', 'assistant', 'user']
    assert prompt.messages[1]['content'] == 'Hello.\nYes?'
    assert prompt.meta['responses'] == ['Blue.\n\nReally.', 'Blue, or green.']


@pytest.mark.parametrize(
    'scores',
    [
        {'score_chosen': 9, 'score_rejected': 7.5},
        {'chosen_score': 9.0, 'rejected_score': 7.5},
        {'metadata': {'score_chosen': 9.0, 'score_rejected': 7.5}},
    ],
)
def test_scores_of_a_row_are_the_grades(write_rows, scores):
    (prompt,) = _preferences(write_rows(FORMS['texts'] | scores))
    assert prompt.meta['grades'] == [9.0, 7.5]


def test_single_responses_have_their_label_as_grade(write_rows):
    row = {'prompt': 'Sky?', 'completion': 'Blue.', 'label': True}
    right, wrong = _preferences(write_rows(row, row | {'completion': 'Green.', 'label': False}))
    assert (right.meta['responses'], right.meta['grades']) == (['Blue.'], [1.0])
    assert (wrong.meta['responses'], wrong.meta['grades']) == (['Green.'], [0.0])
    made = scorers.given(None, None, samplers.given(None, None, [right, wrong], KEY), KEY)
    examples = [
        example
        for judgement in made
        for example in pairs.singles(judgement, keys.named_rng(KEY, 'a'), label_at=0.5)
    ]
    assert [example.labels for example in examples] == [(1.0,), (0.0,)]


def test_a_runs_examples_come_with_all_responses_scores_and_tokens(write_rows):
    responses = Response('4', (7, 2), 'stop', -0.5), Response('5', (8,), 'length'), Response('3')
    example = Example(user_prompt('a', '2 + 2?', 4), responses, (1.0, 0.0, float('nan')))
    unscored = Example(user_prompt('b', '2 + 3?'), responses[:2])
    first, second = _preferences(write_rows(to_json(example), to_json(unscored)))
    assert first.meta['grades'] == [1.0, 0.0, None] and second.meta['grades'] == [1.0, 0.0]
    assert first.answer == 4
    (rollout, _) = samplers.given(None, None, [first, second], KEY)
    assert rollout.responses[1] == responses[1]
    assert rollout.responses[0] == Response('4', (7, 2), 'stop', None)  # not this model's


def test_pairs_are_made_of_them_and_ties_make_none(write_rows):
    tie = FORMS['texts'] | {'prompt': 'Sea?', 'score_chosen': 5.0, 'score_rejected': 5.0}
    made = _preferences(write_rows(FORMS['dialogues'], tie))
    judgements = scorers.given(None, None, samplers.given(None, None, made, KEY), KEY)
    first, second = (list(pairs.extremes(j, keys.named_rng(KEY, 'a'))) for j in judgements)
    assert [r.text for r in first[0].responses] == ['Blue.', 'Green.'] and not second


@pytest.mark.parametrize(
    'bad, reason',
    [
        ({'chosen': 'Blue.'}, 'neither chosen and rejected'),
        (FORMS['texts'] | {'chosen': 'Green.'}, 'are the same'),
        (FORMS['texts'] | {'chosen': ' '}, 'a response is empty'),
        (FORMS['texts'] | {'prompt': ' '}, 'no user turn'),
        (FORMS['texts'] | {'prompt': [BLUE]}, 'no user turn'),
        (FORMS['texts'] | {'score_chosen': 1.0, 'score_rejected': 2.0}, 'not the smaller'),
        (FORMS['texts'] | {'score_chosen': 1.0}, 'want two numbers'),
        (FORMS['texts'] | {'score_chosen': float('nan'), 'score_rejected': 1.0}, 'want two'),
        (FORMS['texts'] | {'chosen': 3}, 'neither texts nor lists'),
        ({'chosen': [USER, BLUE], 'rejected': [BLUE]}, 'one assistant turn'),
        ({'chosen': [USER, BLUE], 'rejected': [USER, BLUE, USER, BLUE]}, 'one assistant turn'),
        ({'chosen': 'Blue.', 'rejected': 'Green.'}, 'no user turn'),
        ({'prompt': 'Sky?', 'completion': 'Blue.', 'label': 'yes'}, "label='yes'"),
        ({'prompt': 'Sky?', 'completion': ['Blue.'], 'label': 1}, 'neither texts nor|neither a'),
    ],
)
def test_a_bad_row_is_skipped_and_its_fault_is_said(write_rows, caplog, bad, reason):
    path = write_rows(FORMS['texts'], bad)
    with caplog.at_level(logging.WARNING):
        assert len(_preferences(path)) == 1
    with pytest.raises(ValueError, match=reason):
        _preferences(path, max_bad=0)


def test_portions_are_disjoint_of_one_size_and_in_order(write_rows):
    path = write_rows(*(FORMS['texts'] | {'prompt': f'Sky {i}?', 'id': str(i)} for i in range(11)))
    parts = [
        [int(prompt.id) for prompt in _preferences(path, portion=k, portions=3)] for k in (1, 2, 3)
    ]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]  # the last two are in none
    drawn = {int(prompt.id) for prompt in _preferences(path, portion=2, portions=3, n=2)}
    assert len(drawn) == 2 and drawn < set(parts[1])
    with pytest.raises(ValueError, match='portion=4: want 1 to portions=3'):
        _preferences(path, portion=4, portions=3)
    with pytest.raises(ValueError, match='11 prompts of .* do not make 12 portions'):
        _preferences(path, portion=1, portions=12)


@pytest.mark.parametrize(
    'name, rows',
    [
        ('hh_rlhf/helpful-base_test.jsonl.gz', 2354),
        ('ultrafeedback_sample/train_clean.jsonl.gz', 1000),
    ],
)
def test_published_sets_are_read(name, rows):
    path = data_sets.FOLDER / name
    if not path.exists():
        pytest.skip(f'{path} is absent')
    made = _preferences(path, max_bad=20)
    assert rows - 20 <= len(made) <= rows
    for prompt in made:
        assert prompt.messages[-1]['role'] == 'user' and len(prompt.meta['responses']) == 2
        assert '\n\nHuman:' not in prompt.text and '\n\nHuman:' not in prompt.meta['responses'][0]
