"""Prompts from ranked conversation trees and from another run's examples."""

import json

import data_sets
import jax
import numpy as np
import pytest

from selfrew.running import binding
from selfrew.shelves import prompts
from selfrew.types import Example, Response, to_json, user_prompt

KEY = jax.random.key(0)
TREES = data_sets.FOLDER / 'oasst' / 'en_100_tree.jsonl'


def _message(text, rank=None, role='assistant', **fields):
    review = {'deleted': False, 'review_result': True}
    return {'text': text, 'role': role, 'lang': 'en', 'rank': rank, **review, **fields}


def _tree(text, *replies, **fields):
    prompt = _message(text, role='prompter', replies=list(replies), **fields)
    return {'message_tree_id': text, 'prompt': prompt}


def _parts(source) -> dict:
    """The prompts of each part; none for an empty part."""
    parts = {}
    for part in prompts.PARTS:
        try:
            parts[part] = prompts.trees(None, None, KEY, source=source, part=part)
        except ValueError as error:
            assert 'no prompt in' in str(error)
            parts[part] = []
    return parts


def test_a_tree_gives_its_best_answer_or_all_with_grades(write_rows):
    replies = _message('worse', 2), _message('best', 0), _message('good', 1)
    parts = _parts(write_rows(*(_tree(f'Ask {i}', *replies) for i in range(60))))
    assert sum(map(len, parts.values())) == 60 and all(parts.values())
    texts = [{prompt.text for prompt in part} for part in parts.values()]
    assert len(set.union(*texts)) == 60
    assert all(prompt.meta == {'responses': ['best']} for prompt in parts['ift'])
    graded = {'responses': ['best', 'good', 'worse'], 'grades': [0.0, -1.0, -2.0]}
    assert all(prompt.meta == graded for prompt in parts['eft'] + parts['heldout'])


@pytest.mark.parametrize(
    'tree',
    [
        _tree('Ask', _message('x')),  # nobody ranked it
        _tree('Ask', _message('x', 0), lang='de'),
        _tree('Ask', _message('x', 0), deleted=True),
        _tree('Ask', _message('x', 0, review_result=False)),
        _tree('Ask', _message('x', 0, lang='de')),
        _tree('Ask', _message(' ', 0)),
        _tree('Ask'),
    ],
    ids=str,
)
def test_messages_that_were_not_ranked_or_did_not_pass_review_are_left_out(write_rows, tree):
    trees = [tree | {'prompt': tree['prompt'] | {'text': f'Ask {i}'}} for i in range(20)]
    assert not any(_parts(write_rows(*trees)).values())


def test_rows_that_are_no_trees_are_refused(write_rows):
    good = [_tree(f'Ask {i}', _message('a', 0), _message('b', 1)) for i in range(60)]
    no_text = {'rank': 0, 'lang': 'en'}
    broken = [_tree(f'Ask {i} again', no_text) for i in range(9)]
    assert sum(map(len, _parts(write_rows(*good, *broken)).values())) == 60
    half_surrogates = [
        _tree('\ud800', _message('a', 0), _message('b', 1)),
        _tree('Ask', _message('\ud800', 0)),
    ]
    assert sum(map(len, _parts(write_rows(*good, *half_surrogates)).values())) == 60
    with pytest.raises(ValueError, match='not a tree: want a prompt'):
        source = write_rows({'text': 'Hi'})
        prompts.trees(None, None, KEY, source=source, part='ift', max_bad=0)
    with pytest.raises(ValueError, match="no part 'test'; there are: ift, eft, heldout"):
        entry = {'name': 'trees', 'source': write_rows({}), 'part': 'test'}
        binding.bind('prompts', entry, 'x')


@pytest.mark.skipif(not TREES.exists(), reason='the data sets are not here')
def test_the_published_trees_are_read():
    parts = _parts(str(TREES))
    sizes = {part: len(found) for part, found in parts.items()}
    assert sizes == {'ift': 68, 'eft': 26, 'heldout': 5}  # 99 of 100 have ranked answers
    assert np.mean([len(prompt.meta['grades']) for prompt in parts['eft']]) > 2.5


def test_examples_of_another_run_are_demonstrations(write_rows):
    responses = Response('Good. Score: 4', (1, 2)), Response('Bad.')
    example = Example(user_prompt('p/0', 'Judge this.'), responses, (4.0, 0.0))
    source = write_rows(json.dumps(to_json(example)).encode())
    (prompt,) = prompts.examples(None, None, KEY, source=source)
    assert prompt.text == 'Judge this.' and prompt.meta == {'responses': ['Good. Score: 4']}
    with pytest.raises(ValueError, match='the row has another form: TypeError'):
        prompts.examples(None, None, KEY, source=write_rows({'prompt': 'Hi'}))
