"""Forms of answers: each extracts, keys and compares as its sets need, and a false answer is never
taken.
"""

import json
import re

import answer_spellings as spellings
import data_sets
import pytest

from selfrew.tasks import answers, published, records

FORMS = {name: form.answers for name, form in published.FORMS.items()} | {'records': answers.ANY}
CASES = data_sets.FOLDER.parent / 'cases' / 'answers.jsonl'


def _is_right(form: answers.Form, truth: str, response: str, options: tuple = ()) -> bool:
    said = form.extract(response, options)
    return said is not None and form.same(truth, said, options)


@pytest.mark.skipif(not CASES.is_file(), reason='the cases are not here')
def test_the_endings_that_people_and_models_write_are_judged_right():
    rows = [json.loads(line) for line in CASES.read_text().splitlines()]
    wrong = [
        row
        for row in rows
        if _is_right(FORMS[row['form']], row['truth'], row['response']) != row['right']
    ]
    assert len(rows) > 100 and not wrong


@pytest.mark.parametrize(
    'number, text',
    [
        (51.0, '51'),
        (12345.67, '12345.67'),
        (118558.0, '118558'),
        (5e-05, '0.00005'),
        (1e22, '10000000000000000000000'),
        (0.1 + 0.2, '0.30000000000000004'),
        (-7, '-7'),
        ('3.50', '3.50'),
    ],
)
def test_a_truth_keeps_all_its_digits(number, text):
    assert answers.truth_text(number) == text


@pytest.mark.parametrize(
    'truth, said, is_same',
    [
        ('0.3333333333', '1/3', True),  # rounded to ten digits
        ('3.33333', '10/3', True),
        ('0.3333333333', '0.3333333334', False),
        ('0.3333333333', '0.3333', False),
        ('0.30000000000000004', '0.3', True),  # the noise of a float
        ('1.5714285714285714', '11/7', True),
        ('1.5714285714285714', '1.5714285714285716', False),
        ('12345.67', '12345.671', False),  # too few decimals to be rounded
        ('0.00005', '0.000054', False),
        ('123456', '123456.4', False),
    ],
)
def test_only_a_rounded_float_has_a_tolerance(truth, said, is_same):
    assert answers.NUMBER.same(truth, said) == is_same


@pytest.mark.parametrize(
    'form, votes',
    [
        (answers.LETTER, ('(B)', '(B) water', 'B.', 'option B')),
        (answers.MATHEMATICS, ('\\frac12', '0.5', '\\frac{1}{2}', '$1/2$', 'x = 0.5')),
        (answers.NUMBER, ('5', '5.0', '$5', '5 apples', '10/2')),
        (answers.PARTS, ('12 red and 15 blue', '12; 15', '12 (red); 15 (blue)')),
        (answers.ANY, ('Rome', 'rome.', '**Rome**')),
        (answers.ANY, ('(B)', '(B) water', 'option B')),
    ],
)
def test_spellings_of_one_answer_are_one_vote(form, votes):
    assert len({form.key(vote) for vote in votes}) == 1


@pytest.mark.parametrize(
    'form, votes',
    [
        (answers.MATHEMATICS, ('[2,5)', '(2,5]', '(2,5)', '[2,5]', '2,5', '25')),
        (answers.MATHEMATICS, ('2k', '2', '2x', 'k', '2K')),
        (answers.NUMBER, ('5', '5x', '5 or 6', '5 million', '3 PM', '3 AM')),
        (answers.ANY, ('Rome', 'Roma', 'Rome or Roma', '(A)', '(B)')),
        (answers.ANY, ('8', '4 + 4', '2*4', r'4 \times 2', '10-2')),  # the question, not its answer
    ],
)
def test_other_answers_are_other_votes(form, votes):
    assert len({form.key(vote) for vote in votes}) == len(votes)


@pytest.mark.parametrize(
    'truth, said, is_same',
    [
        ('9 (apples)', '9', True),
        ('9 (apples)', '9 apples', True),
        ('9 (third graders)', '9', True),
        ('9 (dollars)', '9 cents', False),
        ('12 (red); 15 (blue)', '12', False),
        ('12 (red); 15 (blue)', '15 blue and 12 red', True),
        ('12 (red); 15 (blue)', '15 red and 12 blue', False),
        ('12 (red); 15 (blue)', 'red: 12, blue: 15', True),
        ('12 (red); 15 (blue)', '12 and 15', True),
        ('12 (red); 15 (blue)', '15 and 12', False),
        ('12 (red); 15 (blue)', '12, 15 and 1', False),
        ('50 (years old); 20 (years old)', '50; 20', True),
        ('50 (years old); 20 (years old)', '20; 50', False),
        ('3:4', '3 : 4', True),
        ('3:4', '3/4', False),
        ('9:43', '9:43', True),
        ('9:03:36 a.m.', '9:03:36 AM', True),
        ('9:03:36 a.m.', '9:03:36 PM', False),
        ('They are equal', 'they are equal.', True),
        ('Yes', 'No', False),
        ('6th', '6th', True),
    ],
)
def test_every_part_of_asdivs_answer_must_be_said(truth, said, is_same):
    assert answers.PARTS.same(truth, said) == is_same


@pytest.mark.parametrize(
    'truth, response, is_right',
    [
        ('Rome', 'The answer is Rome.', True),
        ('Rome', 'Final answer: not Rome', False),
        ('B', 'The answer is (B).', True),
        ('B', 'Final answer: \\boxed{B}', True),
        ('A', 'Final answer: a liquid', False),
        ('0.00005', 'Final answer: 5e-05', True),
        ('[2,5)', 'Final answer: (2,5]', False),
        ('2k', 'Final answer: 2', False),
        ('\\frac{1}{2}', 'Final answer: 0.5', True),
        ('3 PM', 'Final answer: 3 AM', False),
        ('3 PM', 'Final answer: 3 p.m.', True),
        ('1234', 'Final answer: (1,234)', False),
        ('x^2 - 1', 'So it is \\boxed{(x-1)(x+1)}.', True),
    ],
)
def test_a_users_answers_are_letters_numbers_formulas_or_words(truth, response, is_right):
    assert _is_right(answers.ANY, truth, response) == is_right


# --- all truths of the sets, right and wrong ---


def _numbers(truth: str) -> str | None:
    """The plain number of a truth such as '1,234' or '9 (apples)', or None."""
    match = re.fullmatch(r'(-?[\d,]+(?:\.\d+)?)(?: \([^;()]*\))?', truth)
    return match[1].replace(',', '') if match else None


UNIT = re.compile(r'\$|USD|€|km|m\^2|feet|dollars')


def _verdicts(form, truths, right, wrong):
    """(shares of right spellings accepted, wrong answers accepted) of truths."""
    accepted, false = [], []
    for truth in truths:
        for i, answer in enumerate(right(truth)):
            accepted += [_is_right(form, truth, r) for r in spellings.endings(answer, i)]
        for i, answer in enumerate(wrong(truth)):
            endings = spellings.endings(answer, i)
            false += [(truth, r) for r in endings if _is_right(form, truth, r)]
    return sum(accepted) / len(accepted), false


@pytest.mark.skipif(not data_sets.FOLDER.is_dir(), reason='the data sets are not here')
@pytest.mark.parametrize(
    'form, file, every',
    [
        ('gsm8k', 'gsm8k/train.jsonl.gz', 10),
        ('gsm8k', 'gsm8k/test.jsonl', 4),
        ('svamp', 'svamp/svamp_dev_700.jsonl', 1),
        ('mawps', 'mawps/addsub.jsonl', 1),
        ('mawps', 'mawps/multiarith.jsonl', 1),
        ('mawps', 'mawps/singleeq.jsonl', 2),
        ('mawps', 'mawps/singleop.jsonl', 2),
        ('asdiv', 'asdiv/ASDiv.xml', 8),
    ],
)
def test_no_changed_number_of_a_set_is_right_and_its_spellings_are(form, file, every):
    problems = records.read_records(
        str(data_sets.FOLDER / file), lambda _, row: published.read(form, row), 0
    )
    truths = sorted({problem.answer for problem in problems if _numbers(problem.answer)})[::every]

    def right(truth):
        is_measured = '(' in truth  # another unit may be another quantity
        texts = spellings.right_numbers(_numbers(truth))
        return [text for text in texts if not (is_measured and UNIT.search(text))]

    def wrong(truth):
        return spellings.wrong_numbers(_numbers(truth))

    share, false = _verdicts(FORMS[form], truths, right, wrong)
    assert not false and share >= 0.995


def test_no_changed_large_number_is_right_and_its_spellings_are():
    """Truths as GSM-hard has them: numbers of many digits, from floats."""
    truths = ['21062312', '8732353', '-9867630.0', '1.5714285714285714', '5638480.5', '107']
    truths = [answers.truth_text(float(truth)) for truth in truths]
    right, wrong = spellings.right_numbers, spellings.wrong_numbers
    share, false = _verdicts(answers.NUMBER, truths, right, wrong)
    assert not false and share == 1.0


def test_no_changed_formula_is_right_and_its_spellings_are():
    truths = spellings.mathematical_truths()
    right, wrong = spellings.right_mathematics, spellings.wrong_mathematics
    share, false = _verdicts(answers.MATHEMATICS, truths, right, wrong)
    assert len(truths) > 110 and not false and share >= 0.995


@pytest.mark.slow
@pytest.mark.skipif(not data_sets.FOLDER.is_dir(), reason='the data sets are not here')
@pytest.mark.parametrize('has_options', [False, True], ids=['letters alone', 'with options'])
def test_no_other_choice_of_arc_is_right_and_spellings_of_the_choice_are(has_options):
    problems = records.read_records(
        str(data_sets.FOLDER / 'arc/arc_challenge_test.json'),
        lambda _, row: published.read('arc', row),
        0,
    )
    accepted, false = [], []
    for n, problem in enumerate(problems[::3]):
        index = ord(problem.answer) - ord('A')
        other = (index + 1 + n % (len(problem.options) - 1)) % len(problem.options)
        pair = problem.answer, problem.options[index]
        wrong_pair = 'ABCDE'[other], problem.options[other]
        options = problem.options if has_options else ()
        for i, answer in enumerate(spellings.right_letters(*pair)):
            responses = spellings.endings(answer, i)
            accepted += [_is_right(answers.LETTER, pair[0], r, options) for r in responses]
        wrong = spellings.wrong_letters(*pair, *wrong_pair)
        if not has_options:
            wrong.remove(f'({pair[0]}) {wrong_pair[1]}')  # nothing shows that these differ
        wrong += [text for i, text in enumerate(problem.options) if i != index]
        for i, answer in enumerate(wrong):
            responses = spellings.endings(answer, i)
            false += [r for r in responses if _is_right(answers.LETTER, pair[0], r, options)]
    assert not false and sum(accepted) / len(accepted) >= 0.995
