"""Every function of the shelf keeps its contract, and a mixture joins its parts."""

import json

import jax
import pytest

from selfrew.engine import generate
from selfrew.running import binding
from selfrew.shelves import prompts
from selfrew.types import (
    Example,
    Judgement,
    Prompt,
    Response,
    Rollout,
    from_json,
    to_json,
    user_prompt,
)

BOTH = ('word_problems', 'rising')


def _drawn(name, count):
    return {'name': name, 'tasks': BOTH, 'n': count}


ANSWERED = {'prompts': _drawn('demonstrations', 6), 'sampler': {'name': 'given'}}
ARGUMENTS = {
    'task': {'tasks': BOTH, 'n': 6, 'answers': True},
    'demonstrations': {'tasks': BOTH, 'n': 6},
    'verdicts': {'tasks': BOTH, 'n': 6},
    'ranked': {'tasks': BOTH, 'n': 6},
    'records': {},
    'mixture': {'prompts': [_drawn('demonstrations', 3), _drawn('verdicts', 3)]},
    'problems': {'form': 'gsm8k', 'n': 6},
    'trees': {'part': 'ift', 'n': 6},
    'examples': {'n': 6},
    'judgements': {'n': 6},
    'preferences': {'n': 6},
    'judged': {**ANSWERED, 'template': 'check'},
    'crossed': ANSWERED,
    'constrained': {'prompts': _drawn('task', 6)},
    'self_instruct': {'prompts': _drawn('task', 8), 'n': 6, 'max_tokens': 8},
}
REPLY = {'text': 'Yes.', 'rank': 0, 'lang': 'en'}
ROWS = {
    'records': [{'prompt': f'Q{i}?', 'answer': i} for i in range(6)],
    'problems': [{'question': f'Q{i}?', 'answer': f'So. #### {i}'} for i in range(40)],
    'trees': [{'prompt': {'text': f'Q{i}?', 'lang': 'en', 'replies': [REPLY]}} for i in range(40)],
    'examples': [
        to_json(Example(user_prompt(str(i), f'Q{i}?'), (Response('Yes.'),))) for i in range(40)
    ],
    'preferences': [{'prompt': f'Q{i}?', 'chosen': 'Yes.', 'rejected': 'No.'} for i in range(40)],
    'judgements': [
        to_json(Judgement(Rollout(user_prompt(str(i), f'Q{i}?'), (Response('Yes.'),)), (1.0,)))
        for i in range(40)
    ],
}


@pytest.fixture
def inventive_model(monkeypatch, tmp_path):
    """Has the model list six instructions, since the tiny base writes none; returns a template for
    requests that fit its context.
    """
    words = ('cats', 'dogs', 'birds', 'trees', 'words', 'vowels')
    response = Response('\n1. '.join(f'{word} ' * 5 for word in words))

    def fake_generate(lm, params, prompt_tokens, keys, **options):
        return [response for _ in prompt_tokens]

    monkeypatch.setattr(generate, 'generate', fake_generate)
    template = tmp_path / 'short.jinja'
    template.write_text('{{ tasks[0] }}')
    return str(template)


@pytest.mark.parametrize('name', binding.part_names('prompts', prompts))
def test_every_source_of_prompts_keeps_the_contract(name, write_rows, tiny, request):
    """A list of Prompts with distinct ids, each asked by a user, each a JSON line; a function of
    the key.
    """
    entry = {'name': name} | ARGUMENTS[name]
    if name in ROWS:
        entry['source'] = write_rows(*ROWS[name])
    if name == 'self_instruct':
        entry['template'] = request.getfixturevalue('inventive_model')
    source = binding.bind('prompts', entry, 'here')
    made = source(*tiny, jax.random.key(1))
    assert made == source(*tiny, jax.random.key(1))
    assert len(made) == 6 == len({prompt.id for prompt in made})
    for prompt in made:
        assert isinstance(prompt, Prompt)
        assert prompt.messages[-1]['role'] == 'user' and prompt.text.strip()
        assert from_json(Prompt, json.loads(json.dumps(to_json(prompt)))) == prompt
        assert len(tiny[0].text.prompt_tokens(prompt)) > 3
        responses = prompt.meta.get('responses', ())
        assert all(isinstance(response, str) and response for response in responses)


def test_a_mixture_is_its_parts_one_after_the_other_each_with_draws_of_its_own():
    key, options = jax.random.key(0), {'tasks': ('rising',), 'n': 3}
    entry = {'name': 'demonstrations', **options}
    mixture = binding.bind('prompts', {'name': 'mixture', 'prompts': (entry, entry)}, 'here')
    first = prompts.demonstrations(None, None, jax.random.fold_in(key, 0), **options)
    second = prompts.demonstrations(None, None, jax.random.fold_in(key, 1), **options)
    assert mixture(None, None, key) == first + second
    assert first != second
