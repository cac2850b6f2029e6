"""Prompts of built-in tasks: the same for the same key, without truth unless asked for, with true
verdicts and grades.
"""

import re

import jax
import pytest
from true_grades import true_grade

from selfrew import tasks
from selfrew.shelves import prompts
from selfrew.tasks import templates, verdicts
from selfrew.types import Response

BOTH = ('word_problems', 'rising')


def _task(seed=0, n=1000, names=BOTH, **options):
    return prompts.task(None, None, jax.random.key(seed), tasks=names, n=n, **options)


def _seed_data(make, seed=0, names=BOTH, **options):
    return make(None, None, jax.random.key(seed), tasks=names, **options)


@pytest.mark.parametrize('name', tasks.TASKS)
def test_seed_data_are_training_data_and_the_judges_test_is_held_out(name):
    demonstrations = _seed_data(prompts.demonstrations, 7, (name,), n=100)
    assert not any(tasks.is_held_out(prompt.text) for prompt in demonstrations)
    for prompt in _seed_data(prompts.verdicts, 7, (name,), n=100):
        question = re.search(r'^Question: (.*)$', prompt.text, re.M)[1]
        assert not tasks.is_held_out(question)
    ranked = _seed_data(prompts.ranked, 7, (name,), n=100)
    assert all(tasks.is_held_out(prompt.text) for prompt in ranked)
    for split in ('train', 'heldout'):
        problems = _task(7, 100, (name,), split=split)
        assert all(tasks.is_held_out(p.text) == (split == 'heldout') for p in problems)


def test_one_key_gives_the_same_prompts_and_another_gives_others():
    assert _task(3, answers=True) == _task(3, answers=True)
    assert len({p.id for p in _task(3)} & {p.id for p in _task(4)}) < 20


def test_prompts_without_answers_carry_no_truth():
    for prompt in _task(n=200):
        assert prompt.answer is None and prompt.meta == {'task': prompt.meta['task']}
    for make in (prompts.demonstrations, prompts.verdicts):
        for prompt in _seed_data(make, n=200):
            assert prompt.answer is None and prompt.meta.keys() == {'task', 'responses'}
            assert len(prompt.meta['responses']) == 1
    with_answers = _task(n=200, answers=True)
    assert [p.id for p in with_answers] == [p.id for p in _task(n=200)]
    assert all(p.answer is not None for p in with_answers)


def test_worked_verdicts_conclude_with_the_true_grade_of_the_response_they_were_shown():
    judge_prompt = re.compile(r'^Question: (.*)\nAnswer: ((?:.|\n)*)$', re.M)
    grades = set()
    for prompt in _seed_data(prompts.verdicts, n=500, template='check'):
        problem, response = judge_prompt.search(prompt.text).groups()
        assert prompt.text == templates.render('check', prompt=problem, response=response)
        (verdict,) = prompt.meta['responses']
        grade = verdicts.score(Response(verdict), low=0.0, high=5.0)
        assert grade == true_grade(problem, response)
        grades.add(grade)
    assert grades == {1.0, 2.0, 5.0}


def test_ranked_responses_have_true_grades_and_never_all_the_same():
    for prompt in _seed_data(prompts.ranked, n=300, responses=4):
        responses, grades = prompt.meta['responses'], prompt.meta['grades']
        assert len(responses) == len(grades) == 4 and len(set(grades)) > 1
        assert grades == [true_grade(prompt.text, response) for response in responses]


def test_tasks_and_splits_that_do_not_exist_are_refused():
    with pytest.raises(KeyError, match="no task named 'puzzles'; there are: word_problems, rising"):
        _task(names=('puzzles',))
    with pytest.raises(ValueError, match="no split 'test'; there are: train, heldout"):
        _task(split='test')
    with pytest.raises(ValueError, match='there are: word_problems, rising'):
        _task(names=())


@pytest.mark.parametrize('count', [0, -1])
def test_no_prompts_at_all_is_refused(count):
    with pytest.raises(ValueError, match=f'n={count}'):
        _task(n=count)


def test_a_ranking_wants_two_responses():
    with pytest.raises(ValueError, match='responses=1'):
        _seed_data(prompts.ranked, names=('rising',), n=1, responses=1)
