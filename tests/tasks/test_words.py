"""Words are counted as the paper counts them, and a limit of them stands in the last turn."""

import sys

import pytest

from selfrew.tasks import words
from selfrew.types import Prompt, user_prompt


@pytest.mark.parametrize(
    'text, count',
    [
        ('', 0),
        ('Hello, world!', 2),
        ('It is... fine.', 4),  # the dots are a mark of several characters, and count
        ("Don't stop.", 3),  # "Do", "n't", "stop."
        ('3 + 4 = 7. Final answer: 7', 6),  # 3 4 7. Final answer 7: signs are punctuation
        ('One sentence. Another one', 4),
        ('* a list\n* of things\n', 4),
        ('Er sagte: „nein“', 5),  # the quotes are not ASCII punctuation, and count
        ('..', 1),  # no part of string.punctuation
        ('a - b ( c )', 3),
    ],
)
def test_words_are_tokens_without_punctuation(text, count):
    assert words.count_words(text) == count


def test_the_limit_stands_in_the_last_turn_and_in_the_id(tmp_path):
    template = tmp_path / 'own.jinja'
    template.write_text('{{ prompt }} ({{ limit }})')
    turns = [('system', 'S'), ('user', 'A'), ('assistant', 'B'), ('user', 'C')]
    messages = tuple({'role': role, 'content': content} for role, content in turns)
    prompt = Prompt('p', messages, 5, {'task': 'any'})
    limited = words.limited(prompt, 7, str(template))
    assert limited.messages == (*messages[:3], {'role': 'user', 'content': 'C (7)'})
    assert limited.id == 'p/7 words' and limited.answer == 5
    assert limited.meta == {'task': 'any', 'limit': 7} and prompt.meta == {'task': 'any'}


def test_the_shipped_template_names_the_limit_and_keeps_the_prompt():
    text = words.limited(user_prompt('p', 'Why?\n\nSay {{ it }}.'), 12, 'length_limit').text
    assert '12 words' in text and text.endswith('\n\nWhy?\n\nSay {{ it }}.')


def test_without_nltk_the_extra_is_named_at_start(monkeypatch):
    monkeypatch.setattr(words.importlib.util, 'find_spec', lambda name: None)
    for check in (words.check_installed, lambda: words.check_gap(10)):
        with pytest.raises(ValueError, match=r'selfrew\[lift\]'):
            check()
    monkeypatch.setitem(sys.modules, 'nltk.tokenize', None)
    with pytest.raises(ImportError, match=r'selfrew\[lift\]'):
        words.count_words('a')


@pytest.mark.parametrize('gap', [1, 0, -3])
def test_a_gap_without_room_for_a_limit_is_refused(gap):
    with pytest.raises(ValueError, match='at least 2'):
        words.check_gap(gap)
