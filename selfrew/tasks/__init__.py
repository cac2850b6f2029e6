"""What has a truth: built-in tasks, published problem sets, rows of the user's files; final answers
and verdicts; prompt templates.

Import from it: its functions on tasks, and the modules answers, constraints, hashing, published,
records, splitting, templates and verdicts, whole or a function of theirs.
It imports: types.

A built-in task draws endless problems whose truth can be computed. Contract of a task's module:
  NAME                               the task's name
  make(rng) -> Prompt                a new problem with the id NAME; `answer` and `meta` hold what
                                     the functions below need
  demonstrate(prompt, rng, flaw)     -> str, a worked response with that flaw: 'none', 'short'
                                     (stops early) or 'slip' (a mistake)
  ANSWERS                            its answers.Form: what a response concludes with, and whether
                                     that is right
  grade(prompt, response)            -> float, the true grade from 0 to 5; 5 for a right response
  worked_verdict(prompt, response)   -> str, a verdict that ends with 'Score: <true grade>'

The lazy demonstrator's flaws are deliberate: training methods are to correct them.
"""

import dataclasses

from selfrew.tasks import answers, published, rising, word_problems
from selfrew.tasks.hashing import hash_digit, short_id
from selfrew.types import Prompt, Response

STOPS_EARLY = 0.5  # share of all lazy responses with the flaw 'short'
SLIPS = 0.2  # share of the other lazy responses with the flaw 'slip'
FLAWS = 'none', 'short', 'slip'
TASKS = {task.NAME: task for task in (word_problems, rising)}
SPLITS = 'train', 'heldout'


def get(name: str):
    """The task module of that name. KeyError names the choices."""
    if name not in TASKS:
        raise KeyError(f'no task named {name!r}; there are: {", ".join(TASKS)}')
    return TASKS[name]


def get_all(names: tuple) -> list:
    """The task modules of those names. KeyError for an unknown name, ValueError for no names."""
    if not names:
        raise ValueError(f'no task to draw from; there are: {", ".join(TASKS)}')
    return [get(name) for name in names]


def module_of(problem: Prompt):
    """The task module that made a problem."""
    return get(problem.meta['task'])


def check_split(split: str) -> None:
    """Raises ValueError for a split that does not exist."""
    if split not in SPLITS:
        raise ValueError(f'no split {split!r}; there are: {", ".join(SPLITS)}')


def is_held_out(text: str) -> bool:
    """Whether a problem is reserved for evaluation: one in ten, by a hash of its text, so that the
    splits never overlap.
    """
    return hash_digit(text) == 0


def problems(names, n: int, rng, split: str = 'train') -> list[Prompt]:
    """`n` different problems, one of each task in turn.

    Args:
      names: of tasks. rng: a numpy Generator.
      split: 'train' or 'heldout'; the two share no text.
    Raises KeyError for an unknown task, ValueError for an unknown split, no names or n < 1.
    """
    check_split(split)
    if n < 1:
        raise ValueError(f'n={n} problems: want at least 1')
    modules, drawn, texts = get_all(names), [], set()
    while len(drawn) < n:
        prompt = modules[len(drawn) % len(modules)].make(rng)
        if is_held_out(prompt.text) == (split == 'heldout') and prompt.text not in texts:
            texts.add(prompt.text)
            drawn.append(dataclasses.replace(prompt, id=f'{prompt.id}/{short_id(prompt.text)}'))
    return drawn


def demonstrate(prompt: Prompt, rng, has_even_flaws: bool = False) -> str:
    """A lazy demonstrator's response to a built-in problem.

    Args:
      has_even_flaws: whether each of FLAWS is equally likely; else as STOPS_EARLY and SLIPS say.
    """
    if has_even_flaws:
        flaw = str(rng.choice(FLAWS))
    elif rng.random() < STOPS_EARLY:
        flaw = 'short'
    elif rng.random() < SLIPS:
        flaw = 'slip'
    else:
        flaw = 'none'
    return module_of(prompt).demonstrate(prompt, rng, flaw)


def answer_form(prompt: Prompt) -> answers.Form:
    """How answers to a prompt are read and compared: the form of its task, built-in or published,
    else the one for any answer.
    """
    name = prompt.meta.get('task')
    if name in published.FORMS:
        return published.get(name).answers
    return TASKS[name].ANSWERS if name in TASKS else answers.ANY


def conclusion(prompt: Prompt, response: Response) -> str | None:
    """What a response concludes with; None if it does not, or was cut by the length limit."""
    if response.finish != 'stop':
        return None
    return answer_form(prompt).extract(response.text, _options(prompt))


def vote(prompt: Prompt, response: Response) -> str | None:
    """The canonical form of a response's answer; None if it does not conclude."""
    answer = conclusion(prompt, response)
    return None if answer is None else key_of(prompt, answer)


def is_right(prompt: Prompt, response: Response) -> bool:
    """Whether a response concludes with the prompt's answer, or with one of a list of answers."""
    answer = conclusion(prompt, response)
    return answer is not None and is_truth(prompt, answer)


def key_of(prompt: Prompt, answer: str) -> str:
    """The canonical form of what a response concludes with."""
    return answer_form(prompt).key(answer, _options(prompt))


def is_truth(prompt: Prompt, answer: str) -> bool:
    """Whether what a response concludes with is the prompt's answer, or one of several."""
    same, options = answer_form(prompt).same, _options(prompt)
    return any(same(truth, answer, options) for truth in _truths(prompt))


def _options(prompt: Prompt) -> tuple:
    return tuple(prompt.meta.get('options', ()))


def _truths(prompt: Prompt) -> list:
    """The answers that are right. A worked solution stands for what it concludes with."""
    if prompt.meta.get('task') in TASKS:
        return [prompt.answer]
    accepted = prompt.answer if isinstance(prompt.answer, (list, tuple)) else [prompt.answer]
    texts = [answers.truth_text(truth) for truth in accepted]
    if prompt.meta.get('task') in published.FORMS:
        return texts
    return [answers.ANY.extract(text) or text for text in texts]
