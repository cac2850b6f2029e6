"""Constraints are asked for, and a text keeps one or breaks it."""

import numpy as np
import pytest

from selfrew.tasks import constraints
from selfrew.types import Prompt

# kind, arguments, texts that keep it, texts that break it
CASES = [
    ('at_most_words', {'n': 3}, ['one two three', '- one - two'], ['one two three four', '']),
    ('at_least_words', {'n': 3}, ['one, two; three'], ['one - two', '... ... ...']),
    (
        'sentences',
        {'n': 2},
        [
            'One. Two!',
            'He paid 3.5 dollars, e.g. in coins. "Why?"',
            'Mr. Hill came. And went',
            '1. One.\n2. Two.',
            'Really?! Yes...',
            'A heading\nA sentence (as it is.)',
        ],
        ['One', 'One. Two. Three.', 'One. Two.\n\nThree'],
    ),
    (
        'bullets',
        {'n': 2},
        ['- a\n- b', 'Here:\n\n- a\n\n- b\n', '- a - c\n  - b'],
        ['* a\n* b', '- a', '- a\n- b\n- c', '-a\n-b', '- \n- b'],
    ),
    (
        'numbered',
        {'n': 2},
        ['1. a\n2. b', 'Two:\n1) a\n2) b'],
        ['1. a\n2. b\n3. c', '1. a\n1. b', '2. a\n1. b', 'a\nb', '1. a 2. b'],
    ),
    (
        'paragraphs',
        {'n': 2},
        ['a\n\nb', 'a\nb\n \n\nc', '\n\na\n\nb\n\n'],
        ['a', 'a\nb', 'a\n\nb\n\nc'],
    ),
    ('lower_case', {}, ['all small, 3 é.'], ['One', 'oNe', '']),
    ('upper_case', {}, ['ALL 3 É.'], ['ALl', '3.', '']),
    ('with_word', {'word': 'river'}, ['The River.', 'river-bed'], ['rivers', 'a driver']),
    ('without_word', {'word': 'the'}, ['Then, they and lathe'], ['THE end', 'the-end']),
    (
        'starts_with',
        {'phrase': 'In short'},
        ['In short, yes', '"in SHORT: yes', 'In\nshort yes'],
        ['In shortage', 'Well, in short', 'In'],
    ),
    (
        'ends_with',
        {'phrase': 'That is all'},
        ['Yes. That is all', 'So: that is ALL!"', 'That is all.'],
        ['That is all I know', 'hat is all', 'What is all'],
    ),
    ('quoted', {}, ['"Yes, it is."', ' “Yes” \n'], ['"Yes" he said', 'Yes', '"', 'he said "Yes"']),
    ('no_commas', {}, ['one and two'], ['one, two', '']),
    ('titled', {}, ['[[A title]]\nText', 'Text [[t]]'], ['[A title]', '[[]]', '[[ ]]', '[[a\nb]]']),
]


def test_every_kind_has_cases():
    assert [case[0] for case in CASES] == list(constraints.KINDS)


@pytest.mark.parametrize(
    ('kind', 'arguments', 'text', 'expected'),
    [
        (kind, arguments, text, expected)
        for kind, arguments, kept, broken in CASES
        for expected, texts in ((True, kept), (False, broken))
        for text in texts
    ],
)
def test_a_text_keeps_a_constraint_or_breaks_it(kind, arguments, text, expected):
    assert constraints.are_kept([{'kind': kind} | arguments], text) == [expected]


def test_a_text_that_repeats_a_request_keeps_nothing():
    asked = [{'kind': 'with_word', 'word': 'journey'}, {'kind': 'sentences', 'n': 1}]
    request = 'The word "journey" must occur in your answer.'
    assert constraints.are_kept(asked, request) == [False, False]
    longer = 'the word Journey must occur in the first part'
    assert constraints.are_kept(asked, longer) == [False, False]
    assert constraints.are_kept(asked, 'The word "journey" must be old.') == [True, True]
    phrases = [
        value
        for kind in constraints.KINDS.values()
        for values in kind.choices.values()
        for value in values
        if isinstance(value, str)
    ]
    assert max(len(phrase.split()) for phrase in phrases) < constraints.REPEATED


def test_drawn_constraints_are_of_different_groups_and_ask_nothing_that_the_prompt_gives():
    kinds, rng = tuple(constraints.KINDS), np.random.default_rng(0)
    most = len(constraints.groups_of(kinds))
    drawn_kinds = set()
    for _ in range(300):
        drawn = constraints.draw(rng, kinds, most, 'A river and a garden')
        groups = [constraints.KINDS[c['kind']].group for c in drawn]
        assert sorted(set(groups)) == sorted(groups) and len(groups) == most
        drawn_kinds |= {c['kind'] for c in drawn}
        for c in drawn:
            assert c.get('word') not in ('river', 'garden') or c['kind'] == 'without_word'
            for name, values in constraints.KINDS[c['kind']].choices.items():
                assert c[name] in values
    assert drawn_kinds == set(kinds)
    with pytest.raises(ValueError, match=f'{most + 1} constraints'):
        constraints.draw(rng, kinds, most + 1, '')
    only = constraints.draw(rng, ('bullets', 'no_commas'), 2, '')
    assert {c['kind'] for c in only} == {'bullets', 'no_commas'}


def test_a_constrained_prompt_asks_in_its_last_turn_and_forgets_its_answer():
    chat = (
        {'role': 'user', 'content': 'Hi'},
        {'role': 'assistant', 'content': 'Hello'},
        {'role': 'user', 'content': 'Name a city.'},
    )
    prompt = Prompt('a', chat, answer='Rome', meta={'responses': ['Rome']})
    asked = constraints.constrained(
        prompt, [{'kind': 'sentences', 'n': 1}, {'kind': 'with_word', 'word': 'river'}]
    )
    assert asked.messages[:2] == chat[:2] and asked.answer is None
    assert asked.messages[2]['content'] == (
        'Name a city.\n\nThe number of sentences must be exactly 1. '
        'The word "river" must occur in your answer.'
    )
    assert list(asked.meta) == ['constraints']
    assert constraints.are_kept(asked.meta['constraints'], 'A river') == [True, True]


def test_unknown_kinds_and_none_are_refused():
    with pytest.raises(ValueError, match=r"no kind of constraint 'rhymes'; there are: at_most"):
        constraints.check_kinds(('bullets', 'rhymes'))
    with pytest.raises(ValueError, match='no kinds of constraints'):
        constraints.check_kinds(())
