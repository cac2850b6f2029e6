"""Built-in tasks agree with the tests' own reading of their problems: answers, grades, verdicts,
splits, and the rates of a lazy demonstrator's flaws.
"""

import re

import numpy as np
import pytest
from true_grades import MARK, count_and_range, running_totals, true_grade

from selfrew import tasks
from selfrew.shelves import scorers
from selfrew.tasks import rising, verdicts, word_problems
from selfrew.types import Response

BOTH = ('word_problems', 'rising')


def _problems(seed=0, n=1000, names=BOTH, split='train'):
    return tasks.problems(names, n, np.random.default_rng(seed), split)


def _answer(numbers) -> str:
    return MARK + ', '.join(map(str, numbers))


@pytest.mark.parametrize('name', tasks.TASKS)
def test_train_and_held_out_never_overlap(name):
    texts = {'train': set(), 'heldout': set()}
    for split in texts:
        for seed in range(3):
            texts[split] |= {problem.text for problem in _problems(seed, 1000, (name,), split)}
    # nearly all of 3 · 1000 are different
    assert len(texts['train']) > 2000 < len(texts['heldout'])
    assert not texts['train'] & texts['heldout']


def test_the_problems_of_a_draw_are_different_and_the_tasks_come_in_turn():
    problems = _problems(n=2000)
    assert len({p.text for p in problems}) == len({p.id for p in problems}) == 2000
    assert [p.meta['task'] for p in problems[:4]] == ['word_problems', 'rising'] * 2
    assert len(_problems(n=7)) == 7


def test_word_problems_are_solved_as_their_sentences_say():
    problems = _problems(n=2000, names=('word_problems',))
    lengths = set()
    for problem in problems:
        totals = running_totals(problem.text)
        lengths.add(len(totals))
        assert problem.answer == totals[-1]
        assert all(0 <= total <= word_problems.LARGEST for total in totals)
        assert word_problems.grade(problem, f'{MARK}{totals[-1]}') == 5.0
        assert [left for left, _, _ in problem.meta['steps']] == totals[:-1]
    assert lengths == {2, 3, 4, 5}


def test_rising_numbers_can_be_found_and_many_are_right():
    for problem in _problems(n=2000, names=('rising',)):
        count, low, high = count_and_range(problem.text)
        assert problem.answer == {'count': count, 'low': low, 'high': high} and 3 <= count <= 6
        assert 0 <= low <= high - 20 and high <= word_problems.LARGEST
        # the bounds belong to the range
        assert rising.grade(problem, _answer(range(low, low + count))) == 5.0
        assert rising.grade(problem, _answer(range(high - count + 1, high + 1))) == 5.0


def test_grades_and_verdicts_agree_with_the_tests_own_computation():
    rng, seen = np.random.default_rng(0), set()
    for problem in _problems(n=2000):
        module = tasks.module_of(problem)
        response = tasks.demonstrate(problem, rng, has_even_flaws=True)
        grade, verdict = module.grade(problem, response), module.worked_verdict(problem, response)
        assert grade == true_grade(problem.text, response), (problem.text, response)
        assert verdicts.score(Response(verdict), low=0.0, high=5.0) == grade
        assert tasks.is_right(problem, Response(response)) == (grade == 5.0)
        assert scorers.correctness(problem, Response(response)) == float(grade == 5.0)
        if module is word_problems:
            truth = running_totals(problem.text)[-1]
        else:
            truth = count_and_range(problem.text)[0]
        assert f'Expected {truth}, found ' in verdict
        seen.add((problem.meta['task'], grade))
    assert seen == {(name, grade) for name in BOTH for grade in (1.0, 2.0, 5.0)}


@pytest.mark.parametrize(
    'name, response, grade',
    [
        ('word_problems', '', 0.0),
        ('word_problems', 'It is 12.', 0.0),
        ('word_problems', 'Final answer: many', 0.0),
        ('word_problems', 'Final answer: -1', 1.0),
        ('word_problems', 'Final answer: 123456', 1.0),
        ('rising', '', 0.0),
        ('rising', '16, 17, 18', 0.0),
        ('rising', 'Final answer: ', 0.0),
        ('rising', 'Final answer: nothing', 1.0),
        ('rising', 'Final answer: 16, ²', 1.0),
    ],
)
def test_a_response_that_answers_nothing_is_graded_low(name, response, grade):
    for problem in _problems(n=20, names=(name,)):
        assert tasks.get(name).grade(problem, response) == grade
        assert tasks.get(name).worked_verdict(problem, response).endswith(f'Score: {grade:.0f}')


def test_a_number_that_is_not_larger_does_not_fit():
    (problem,) = _problems(n=1, names=('rising',))
    count = problem.answer['count']
    for numbers in ([20] * count, range(30, 30 - count, -1)):
        assert rising.grade(problem, _answer(numbers)) == 1.0


# --- the lazy demonstrator ---


def _demonstrated(name, n=4000):
    """(problem, response) of a lazy demonstrator."""
    rng = np.random.default_rng(5)
    problems = tasks.problems((name,), n, rng)
    return [(problem.text, tasks.demonstrate(problem, rng)) for problem in problems]


def test_the_demonstrator_of_word_problems_is_as_lazy_as_it_says():
    sums = re.compile(r'(\d+) ([+-]) (\d+) = (\d+)\.')
    several = short = slipped = 0
    demonstrated = _demonstrated('word_problems')
    for problem, response in demonstrated:
        is_correct = [
            int(left) + int(f'{sign}{right}') == int(result)
            for left, sign, right, result in sums.findall(response)
        ]
        steps = len(running_totals(problem)) - 1
        several += steps > 1
        short += len(is_correct) < steps
        assert len(is_correct) in (steps, max(steps - 1, 1))
        slipped += not all(is_correct)
        assert all(is_correct) or len(is_correct) == steps  # one flaw at a time
    # standard errors: √(0.25 / 3000) < 0.01 and √(0.1 · 0.9 / 4000) < 0.005
    assert short / several == pytest.approx(tasks.STOPS_EARLY, abs=0.04)
    # every problem meets the same draw; one of a single step cannot be cut short
    slip_rate = (1 - tasks.STOPS_EARLY) * tasks.SLIPS
    assert slipped / len(demonstrated) == pytest.approx(slip_rate, abs=0.02)


def test_the_demonstrator_of_rising_numbers_is_as_lazy_as_it_says():
    short = wrong = 0
    demonstrated = _demonstrated('rising')
    for problem, response in demonstrated:
        count, numbers = count_and_range(problem)[0], response.removeprefix(MARK).split(', ')
        short += len(numbers) < count
        wrong += true_grade(problem, response) == 1.0
        assert len(numbers) in (count, count - 1)
    assert short / len(demonstrated) == pytest.approx(tasks.STOPS_EARLY, abs=0.04)
    assert wrong / (len(demonstrated) - short) == pytest.approx(tasks.SLIPS, abs=0.035)
