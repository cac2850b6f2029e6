"""Conclusions: where a response ends with its answer, and which words those are."""

import pytest

from selfrew.tasks.answers import conclusions, quantities

CONCLUDES_WITH = {
    'Final Answer\n\n42': '42',
    '### Final Answer\n42': '42',
    '## Final Answer:\n\n42': '42',
    'The final answer is 42.': '42.',
    'Answer: 42': '42',
    'The answer is $\\boxed{1,000}$ dollars.': '1,000',
    'Final answer: $1,000': '$1,000',
    'Final answer: = 42': '= 42',
    'Final answer: 42\n\nLet me know if you have more questions!': '42',
    'Final answer: 42\nI used the format "Final answer: ..." as asked.': '42',
    '\\boxed{41} is wrong, so \\boxed{42}': '42',
    '\\boxed{42}\n\n#### 41': '41',
    'Step 1:\n#### Add\n20+22=42\n\n**42**': '42',
    'Final Answer : 42': '42',
    'Final answer – 42': '42',
    'Final answer is: 42': '42',
    '**Final Answer:** $\\frac{3}{4}$': '$\\frac{3}{4}$',
    'Final answer: The final answer is $\\boxed{\\frac34}$. I hope it is correct.': '\\frac34',
    '\\boxed{\\frac{3}{4}': None,
    '\\boxed{5}\\text{ or }\\boxed{7}': '5, 7',
    'She has 9 * 2 = 18.\n\n#### Final Answer: 18': '18',
    'So \\boxed{18}.\n\n#### Check\n9 * 2 = 18, fine.': '18',
    'So it is 18.\n\n#### Conclusion\nShe has 18 eggs.': None,
    '42': None,
    '#### 2. Total\nfoo': None,
    'so 18 #### 18': '18',
    'Final answer: $\\boxed{5}$ million': '5 million',
    'it is not $\\boxed{5}$': 'not 5',
    '\\boxed{5} is wrong': '5 is wrong',
    '- \\boxed{5}': '5',
    '$x=-\\boxed{5}$': '-5',
    '`Final answer: 42`': '42`',
    '"Final answer: 42"': '42"',
    'I was told to write "Final answer: 5" here.': None,
    'Final answer:\n- 42': '42',
    'Final answer:\n\\[\n42\n\\]': '42',
    '**Final Answer**\n\n**42**': '42',
    '<think>Final answer: 3</think>\nFinal answer: 42': '42',
    '<think>Final answer: 3': None,
    '<answer>42</answer>': '42',
    'The final answer in dollars is 42': '42',
    'The answer to the question is 42': '42',
    '\\boxed{\\boxed{5}}': '\\boxed{5}',
    '$x=\\boxed{5}$ and $y=\\boxed{7}$': '5, 7',
    '\\boxed 5': '5',
    'the final answer\nStep 1': 'Step 1',
    'Final answer (in dollars): 42': '42',
    '**Answer:** 42': '42',
    '### Answer\n42': '42',
    'The answer is $42$.': '$42$.',
    '\\boxed{5}$ a week': '5',
    'Final answer:': None,
    '$\\boxed{5}x$': '5x',
    'Final answer: 1. No wait. Final answer: 2': '2',
    'The final answer is therefore 42': 'therefore 42',
    'final answer\n(B)': '(B)',
    'Thus, the correct final answer is:\n\n$$42$$': '42',
}


def _is_number(text: str) -> bool:
    return quantities.read(text) is not None


@pytest.mark.parametrize('response', CONCLUDES_WITH)
def test_a_response_concludes_with_its_last_answer(response):
    assert conclusions.conclusion(response, _is_number) == CONCLUDES_WITH[response]


@pytest.mark.parametrize(
    'response, said',
    [
        ('The answer is Rome.', 'Rome.'),
        ('Answer: Rome', 'Rome'),
        ('It is in Italy.\n#### Rome', 'Rome'),
        ('#### Conclusion\nIt is Rome.', None),
        ('Final answer: Rome\nThe answer is easy.', 'Rome'),
        ('Rome', None),
    ],
)
def test_words_are_concluded_with_where_nothing_else_is(response, said):
    assert conclusions.conclusion(response, _is_number, takes_words=True) == said


def test_three_answers_under_the_same_heading_are_not_one():
    responses = [f'It is {n}.\n\n#### Conclusion\nShe has {n} eggs.' for n in (17, 18, 19)]
    assert [conclusions.conclusion(r, _is_number) for r in responses] == [None] * 3


@pytest.mark.parametrize(
    'text, content',
    [
        ('\\boxed{1} and \\boxed{2}', '2'),
        ('\\boxed{\\frac{1}{\\sqrt{2}}}', '\\frac{1}{\\sqrt{2}}'),
        ('\\boxed{1', None),
        ('\\fbox{3}', '3'),
        ('none', None),
    ],
)
def test_the_last_box_that_closes_is_found(text, content):
    assert conclusions.boxed(text) == content
