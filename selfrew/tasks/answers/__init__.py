"""Final answers: where a response concludes, with what, and whether that is the truth.

Import from it: its names, one form of answers each, and conclusions.boxed.
It imports: nothing of selfrew.
"""

from selfrew.tasks.answers.forms import (
    ANY,
    LETTER,
    MATHEMATICS,
    NUMBER,
    PARTS,
    Form,
    truth_text,
)

__all__ = ['ANY', 'LETTER', 'MATHEMATICS', 'NUMBER', 'PARTS', 'Form', 'truth_text']
