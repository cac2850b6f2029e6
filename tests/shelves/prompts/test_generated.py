"""Self-Instruct: what it shows the model, which instructions it keeps, and when it gives up."""

import functools
import itertools

import jax
import numpy as np
import pytest

from selfrew.engine import generate
from selfrew.shelves import prompts
from selfrew.shelves.prompts import novelty
from selfrew.types import Response, user_prompt

KEY = jax.random.key(0)
SEEDS = [
    f'Explain how a {thing} works to a child.'
    for thing in ('clock', 'kettle', 'lock', 'pump', 'lamp', 'wheel', 'sail', 'drum')
]
NEW = 'Sort these five words by length.'


@pytest.fixture
def script(monkeypatch):
    """script(*texts) has the model respond with these texts in turn, and returns the list of the
    requests that it is shown.
    """

    def replace_sampler(*texts):
        requests, responses = [], itertools.cycle(texts)

        def fake_generate(lm, params, prompt_tokens, keys, **options):
            requests.extend(lm.text.decode(tokens) for tokens in prompt_tokens)
            return [
                text if isinstance(text, Response) else Response(text)
                for _, text in zip(prompt_tokens, responses)
            ]

        monkeypatch.setattr(generate, 'generate', fake_generate)
        return requests

    return replace_sampler


@pytest.fixture
def short(tmp_path):
    """A template that shows the beginnings of tasks only."""
    path = tmp_path / 'short.jinja'
    path.write_text('{% for t in tasks %}{{ loop.index }}. {{ t[:12] }}\n{% endfor %}')
    return str(path)


def _seeds(*_):
    return [user_prompt(str(i), text) for i, text in enumerate(SEEDS)]


def _instructions(tiny, short, count, **options):
    lm, params = tiny
    entry = {'prompts': _seeds, 'template': short, 'max_tokens': 8, 'batch': 1}
    return prompts.self_instruct(lm, params, KEY, n=count, **entry | options)


def test_instructions_are_kept_if_they_are_new(tiny, short, script):
    cut = 'Tell a joke about two bakers.\n10) Give me a riddle that has been cu'
    requests = script(
        f' {NEW}\n10. Explain how a clock works to a small child.\n'
        '11. Sing!\n12. Draw a cat for me.',
        Response(cut, (), 'length'),
        'Here are some more tasks for you:\n\n1. Sort these five words by length, please.\n'
        '2. List the planets by their distance.',
    )
    made = _instructions(tiny, short, 3)
    assert [prompt.text for prompt in made] == [
        NEW,
        'Tell a joke about two bakers.',
        'List the planets by their distance.',
    ]
    assert len({p.id for p in made}) == 3 and all(p.answer is None for p in made)
    assert requests[0].count('Explain how') == 8
    assert '1. Explain' in requests[0] and '8. ' in requests[0]
    # the one new instruction so far takes the place of a seed
    assert requests[1].count('Explain how') == 7 and requests[1].count('Sort these') == 1


def test_a_model_that_repeats_itself_is_given_up(tiny, short, script):
    script(NEW)
    message = (
        '3 batches of 2 requests gave 1 instructions of 2: '
        r"\{'too_long': 0, 'kept': 1, 'similar': 5\}"
    )
    with pytest.raises(ValueError, match=message):
        _instructions(tiny, short, 2, batch=2, tries=3)


def test_too_few_seeds_are_refused(tiny, short):
    with pytest.raises(ValueError, match='8 seed instructions: want at least 9'):
        _instructions(tiny, short, 1, seeds=7)


def test_a_fixed_generator_is_asked_instead_of_the_policy(tiny, short, monkeypatch):
    lm, params = tiny
    sampled_with = []

    def fake_generate(lm, params, prompt_tokens, keys, **options):
        sampled_with.append(params)
        return [Response(NEW)]

    monkeypatch.setattr(generate, 'generate', fake_generate)
    _instructions((lm, None), short, 1, generator='tiny')
    jax.tree.map(np.testing.assert_array_equal, sampled_with[0], params)


def test_the_policy_itself_continues_the_list(tiny, short):
    """No script: whatever the tiny base writes, kept instructions pass the filters, and a repeated
    call gives the same ones.
    """
    options = {'max_tokens': 40, 'temperature': 1.5, 'tries': 4, 'batch': 16}
    make = functools.partial(_instructions, tiny, short, 2, **options)
    try:
        made = make()
    except ValueError as error:  # it may not write any; it was asked all the same
        assert '4 batches of 16 requests gave' in str(error)
        return
    assert made == make()
    assert all(novelty.rejection_reason(prompt.text) is None for prompt in made)
