"""A template is parsed, rendered and checked before anything is sampled."""

import pytest

from selfrew.running import binding
from selfrew.tasks import templates

JUDGE = 'Grade {{ response }} to {{ prompt }}.'


@pytest.fixture
def refused(tmp_path):
    """refused(key, name, text, **fields): why a part with this template is refused."""

    def why(key, name, text, **fields):
        path = tmp_path / f'{abs(hash(text))}.jinja'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        entry = {'name': name, 'template': str(path)} | fields
        with pytest.raises(ValueError) as caught:
            binding.bind(key, entry, 'round.it')
        return str(caught.value)

    return why


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{{ response }} {{ prompt', 'unexpected end of template'),
        ('{% if response %}', 'line 1'),
        ('{{ response }} {{ reply }}', 'shows {{ reply }}; there are: prompt, response'),
        ('Grade {{ prompt }}.', 'does not show {{ response }}'),
        ('', 'does not show {{ response }}'),
        ('{% if response == 1 %}x{% endif %}', 'is empty'),
        ('{{ response.nothing.more }}', 'nothing'),
        ('{{ response / 2 }}', 'unsupported operand'),
        ('{{ response | nofilter }}', 'nofilter'),
        ('{% set low, high = 5, 1 %}' + JUDGE, 'want low < high'),
        ('{% set low, high = 1 %}' + JUDGE, 'cannot unpack'),
        ("{% set low, high = 'a', 5 %}" + JUDGE, 'want numbers'),
        ('{% set high = none %}' + JUDGE, 'want numbers'),
        (b'\xff\xfe{{ response }}', 'not text in UTF-8'),
        ('{% include "other" %}{{ response }}', 'no loader'),
    ],
)
def test_a_judges_template_that_cannot_work_is_told_at_start(refused, text, words):
    message = refused('scorer', 'judge', text)
    assert words in message and '.jinja' in message


@pytest.mark.parametrize(
    ('key', 'name', 'fields', 'text', 'words'),
    [
        ('scorer', 'compare', {}, '{{ prompt }} {{ first }}', 'does not show {{ second }}'),
        ('scorer', 'compare', {}, '{{ first }} {{ second }} {{ response }}', '{{ response }}'),
        ('prompts', 'self_instruct', {'n': 2}, 'Go on.', 'does not show {{ tasks }}'),
        ('prompts', 'problems', {'form': 'gsm8k'}, '{{ options }}', '{{ question }}'),
        ('prompts', 'verdicts', {'n': 2, 'tasks': ['rising']}, 'x', '{{ response }}'),
        ('pairs', 'agreeing', {}, '{{ prompt }}', 'does not show {{ response }}'),
        ('pairs', 'length_limited', {'gap': 10}, '{{ prompt }}', 'does not show {{ limit }}'),
    ],
)
def test_each_part_wants_the_fields_that_it_fills(
    refused, tmp_path, key, name, fields, text, words
):
    path = tmp_path / 'rows.jsonl'
    path.write_text('{"question": "q", "answer": "#### 1", "prompt": "p"}\n')
    source = {'name': 'records', 'source': str(path)}
    nested = {
        'self_instruct': {'prompts': source},
        'problems': {'source': str(path)},
        'length_limited': {'pairs': {'name': 'extremes'}},
    }
    assert words in refused(key, name, text, **fields, **nested.get(name, {}))


def test_low_and_high_of_a_config_are_checked_with_the_templates():
    with pytest.raises(ValueError, match='want low < high; got low=6.0, high=5.0'):
        binding.bind('scorer', {'name': 'judge', 'low': 6.0}, 'round.scorer')


def test_all_that_ship_pass(tmp_path):
    for name in ('additive', 'choice', 'check'):
        binding.bind('scorer', {'name': 'judge', 'template': name}, 'round.scorer')
        assert templates.score_range(name)[1] == 5.0
    for name in ('pairwise', 'meta'):
        binding.bind('scorer', {'name': 'compare', 'template': name}, 'round.scorer')
