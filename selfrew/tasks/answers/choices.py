"""The letter of a multiple-choice answer."""

import re

from selfrew.tasks.answers.quantities import NEGATIONS
from selfrew.tasks.answers.spelling import (
    fold,
    strip_latex_style,
    unbox,
    unwrap,
    unwrap_texts,
    words_key,
)

LETTERS = 'ABCDEFGH'
# A letter that opens the answer, closed by a mark; what follows is the option's text.
OPENING = re.compile(
    r'(?:(?:option|choice|answer|letter)\s+)?'
    r'(?:[(\[{]\s*([A-Ha-h])\s*[)\]}]|([A-Ha-h])(?=\s*$|\s*[):]|\s*[.,;](?=\s|$)|\s+[-–—]\s))\s*[.):,;–—-]*\s*(.*)',
    re.IGNORECASE | re.DOTALL,
)
JOINED = re.compile(r'(?:or|and|nor)\b|[(\[{]\s*[a-h]\s*[)\]}]', re.IGNORECASE)
TALK = re.compile(r'\W*\w\W*,\s*')  # 'B, which …'
BRACKETED = re.compile(r'[(\[{]\s*([A-Ha-h])\s*[)\]}]')
NAMED = re.compile(r'\b(?:option|choice|answer|letter)s?\s+([A-Ha-h])\b', re.IGNORECASE)
# A capital that stands alone; an A before another word is an article.
CAPITAL = re.compile(r"(?<![\w.'°-])(?<!°\s)(?:[B-H](?![\w'-]|\.\w)|A(?!\w|'|-|\.\w|\s+\w))")
LED_TO = re.compile(
    r'.*\b(?:is|be|was|choose|chose|pick|select|answer|option|choice)\b\s*:?\s*\**', re.I
)


def read(text: str, options: tuple = ()) -> str | None:
    """The letter A to H that a text names as its answer, or None.

    '(b) water', 'B.', 'option B' and 'The answer is (B).' are B. Two letters, a negation and an
    article ('a liquid') are none.

    Args:
      options: the texts of A, B, …, where they are known. Then the text of just one of them is its
        letter, and no letter beyond them is.
    """
    text = _plain(text)
    is_letter = OPENING.fullmatch(text) and len(text.strip('()[]{}.:, ')) == 1
    by_text = None if is_letter else _letter_of_option(text, options)
    letter = by_text or _named_letter(text, options)
    return letter if letter is None or not options or letter in LETTERS[: len(options)] else None


def _plain(text: str) -> str:
    """The text on one line, without mark-up."""
    text = unwrap_texts(strip_latex_style(unbox(fold(text))))
    return ' '.join(unwrap(re.sub(r'\*\*|\\[()\[\]]|[$`"]', '', text)).split())


def _letter_of_option(text: str, options: tuple) -> str | None:
    """The letter of the option with that text; None if none or several have it."""
    wanted = words_key(text)
    matches = [i for i, option in enumerate(options) if words_key(str(option)) == wanted]
    return LETTERS[matches[0]] if len(matches) == 1 else None


def _named_letter(text: str, options: tuple) -> str | None:
    opening = OPENING.fullmatch(text)
    if opening:
        letter, tail = (opening[1] or opening[2]).upper(), opening[3]
        if _is_text_of(letter, tail, options):
            return letter
        is_other = bool(_capitals(tail) - {letter}) or bool(JOINED.match(tail))
        is_talk = TALK.fullmatch(text[: len(text) - len(tail)]) or re.match(r'(?:is|was)\b', tail)
        is_taken_back = is_talk and bool(_words(tail.split('.')[0]) & NEGATIONS)
        return None if is_other or is_taken_back or _letter_of_option(tail, options) else letter
    letters = _letters(text)
    if len(letters) != 1 or _words(text) & NEGATIONS:
        return None
    capital = CAPITAL.search(text)
    is_led_to = capital is not None and LED_TO.fullmatch(text[: capital.start()])
    is_named = is_led_to or BRACKETED.search(text) or NAMED.search(text)
    return letters.pop() if is_named else None


def _is_text_of(letter: str, text: str, options: tuple) -> bool:
    """Whether the text is that of the letter's option."""
    index = LETTERS.index(letter)
    return index < len(options) and words_key(str(options[index])) == words_key(text)


def _capitals(text: str) -> set[str]:
    """The letters that the text of an option names; in it, '(g)' is no choice."""
    named = [match[1] for match in NAMED.finditer(text) if match[1].isupper()]
    bracketed = [match[1] for match in BRACKETED.finditer(text) if match[1].isupper()]
    return {*named, *bracketed, *CAPITAL.findall(text)}


def _letters(text: str) -> set[str]:
    """The letters that a text names, as capitals."""
    named = [m[1] for pattern in (BRACKETED, NAMED) for m in pattern.finditer(text)]
    return {letter.upper() for letter in named + CAPITAL.findall(text)}


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+(?:'[a-z]+)?", text.casefold()))
