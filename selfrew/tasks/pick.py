"""An instruction with a constraint: name so many things of a kind from a list. Many answers are right."""

from selfrew.types import Prompt, ask

NAME = 'pick'
KINDS = {
    'animals': 'dog cat owl cow pig fox hen bee ant frog'.split(),
    'fruits': 'pear plum fig lime kiwi grape melon peach cherry mango'.split(),
    'tools': 'saw axe drill rake spade wrench chisel hammer pliers file'.split(),
    'clothes': 'hat coat sock shirt scarf glove belt boot skirt vest'.split(),
}


def make(rng) -> Prompt:
    """A list of six to eight words; `answer` is {'kind', 'count', 'words': those that fit}."""
    kind = str(rng.choice(list(KINDS)))
    count = int(rng.integers(2, 5))
    fitting = [str(w) for w in rng.choice(KINDS[kind], count + rng.integers(0, 2), replace=False)]
    others = [w for other, words in KINDS.items() if other != kind for w in words]
    length = max(len(fitting) + 2, int(rng.integers(6, 9)))
    words = fitting + [str(w) for w in rng.choice(others, length - len(fitting), replace=False)]
    rng.shuffle(words)
    text = f'Pick {count} {kind} from this list: {", ".join(words)}.'
    return ask(NAME, text, {'kind': kind, 'count': count, 'words': fitting}, task=NAME, words=words)


def demonstrate(prompt: Prompt, rng, flaw: str) -> str:
    """Words that fit, in the list's order; 'short' names one too few, 'slip' one that does not fit, or one twice."""
    count, fitting = prompt.answer['count'], prompt.answer['words']
    chosen = [str(w) for w in rng.choice(fitting, count, replace=False)]
    if flaw == 'short':
        chosen = chosen[:-1]
    elif flaw == 'slip':
        others = [w for w in prompt.meta['words'] if w not in fitting] if rng.random() < 0.5 else chosen[1:]
        chosen[0] = str(rng.choice(others))
    chosen.sort(key=prompt.meta['words'].index)
    return f'Final answer: {", ".join(chosen)}'


def final_answer(response: str) -> list[str]:
    """The words after the last 'Final answer:'; empty where there are none."""
    _, found, tail = response.rpartition('Final answer:')
    return [w.strip() for w in tail.strip().rstrip('.').split(',') if w.strip()] if found else []


def _fits(prompt: Prompt, words: list[str]) -> list[bool]:
    """Whether each named word fits and was not named before."""
    return [w in prompt.answer['words'] and w not in words[:i] for i, w in enumerate(words)]


def grade(prompt: Prompt, response: str) -> float:
    """5 where the constraint holds, 2 for a wrong number of fitting words, 1 with one that does not fit, 0 for none."""
    words = final_answer(response)
    if not words:
        return 0.0
    if not all(_fits(prompt, words)):
        return 1.0
    return 5.0 if len(words) == prompt.answer['count'] else 2.0


def check(prompt: Prompt, response: str) -> str:
    """Goes through the words, counts those that fit, compares, and grades."""
    words, count, lines = final_answer(response), 0, []
    for word, fits in zip(words, _fits(prompt, words)):
        count += fits
        lines.append(f'{word} {count}.' if fits else f'{word} no.')
    lines.append(f'Expected {prompt.answer["count"]}, found {count}. Score: {grade(prompt, response):.0f}')
    return ' '.join(lines)
