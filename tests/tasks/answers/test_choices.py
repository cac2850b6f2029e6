"""Choices: which letter an answer names, and what names none."""

import pytest

from selfrew.tasks.answers import choices

LETTER_OF = {
    'B.': 'B',
    '(b)': 'B',
    '**B**': 'B',
    '**(B) water**': 'B',
    'The answer is (B).': 'B',
    'option B': 'B',
    'choice (B)': 'B',
    '\\text{B}': 'B',
    '$\\text{(B)}$': 'B',
    'The correct answer is (B).': 'B',
    '(D) all of the above': 'D',
    'C: carbon': 'C',
    '"C"': 'C',
    '$\\boxed{B}$': 'B',
    '(C) 5': 'C',
    'B) water': 'B',
    'B - water': 'B',
    'The correct option is B': 'B',
    'a': 'A',
    'A': 'A',
    'b': 'B',
    'a.': 'A',
    '(A) a plant': 'A',
    'A. A plant': 'A',
    'B. It does not change.': 'B',
    '[B]': 'B',
    'answer is B': 'B',
    'The answer is A.': 'A',
    'Option (A)': 'A',
    'B, because water is wet': 'B',
    'The answer is B because water is wet': 'B',
    '\\textbf{(C)}': 'C',
    '\\mathbf{C}': 'C',
    'I choose B': 'B',
    'It is B.': 'B',
    '\\text{(C) }5': 'C',
    '(B).': 'B',
    'B) The dog': 'B',
    '"(B) water"': 'B',
    'option b': 'B',
    'Answer: B': 'B',
    '{B}': 'B',
    '(B) no change': 'B',
    '*B. water*': 'B',
    'B: no change': 'B',
    'The best choice is D.': 'D',
    'D — all': 'D',
    '(A)': 'A',
    'The answer is option A: a plant': 'A',
}
REFUSED = (
    'A or B',
    'Carbon',
    'a plant',
    'A plant',
    'a liquid',
    'A liquid',
    'Because',
    'Not B',
    'not (B)',
    'B and C',
    'A, B',
    'A/B',
    '(A) or (B)',
    '(A) (B)',
    'Both A and B',
    'The answer is not (B)',
    'neither',
    'I',
    '',
    'B is wrong',
    'B, which is wrong',
    'Either B or C',
    'all',
    'ABC',
    'Z',
    'I think so',
    'Vitamin B12',
    'cat',
    'BA',
    'B or maybe C',
    'Option B or C',
    'It cannot be A, so B',
    'B. No, C',
    'A-frame',
    'D-day',
    'Plan B',
    'a b',
    'A B',
    'the answer is a plant',
    'The answer is A plant',
    'B+C',
    'none',
    'B & C',
    '(a) and (b)',
    'Hepatitis B',
    "B's",
    'b liquid',
    'C.elegans',
    'grade A eggs',
    'A few',
    'an apple',
    'A. B',
    'except B',
    '(B) is wrong',
    '(B) or 17',
    '(B) and more',
)
OPTIONS = 'a plant', 'water', 'both A and B', 'E. coli'


@pytest.mark.parametrize('text', LETTER_OF)
def test_the_letter_of_an_answer_is_read(text):
    assert choices.read(text) == LETTER_OF[text]


@pytest.mark.parametrize('text', REFUSED)
def test_articles_two_letters_and_negations_name_no_choice(text):
    assert choices.read(text) is None


@pytest.mark.parametrize(
    'text, letter',
    [
        ('a plant', 'A'),
        ('A plant', 'A'),
        ('Water.', 'B'),
        ('both A and B', 'C'),
        ('(C) both A and B', 'C'),
        ('E. coli', 'D'),
        ('(B) water', 'B'),
        ('A', 'A'),
        ('(B) a plant', None),  # the letter of one option, the text of another
        ('E', None),  # there are four options
        ('a liquid', None),
        ('The answer is water', None),
    ],
)
def test_the_text_of_an_option_is_its_letter_where_the_options_are_known(text, letter):
    assert choices.read(text, OPTIONS) == letter
