"""What has a truth: built-in tasks, published problem sets, the user's records; answers and
verdicts; prompt templates.

Import from it: its functions on built-in tasks, and answers, published, records, templates,
novelty, imported whole.
It imports: types.

Built-in tasks are endless prompts whose truth can be computed. Contract of a task module: NAME, and
  make(rng) -> Prompt                   a new problem, its `answer` and what else `check` needs in
  `meta`; id is NAME demonstrate(prompt, rng, flaw) -> str a worked response with that flaw: 'none',
  'short' (stops early) or 'slip' grade(prompt, response) -> float      the truth, 0 to 5; RIGHT is
  right check(prompt, response) -> str        a worked verdict that ends with 'Score: <grade>'

Lazy demonstrators' flaws are there on purpose: they are the gap in behaviour that the methods
close.
"""

import dataclasses
import hashlib

from selfrew.tasks import answers, published, rising, word_problems
from selfrew.types import Prompt

STOPS_EARLY, SLIPS = (
    0.5,
    0.2,
)  # how often a lazy demonstrator does: of all responses; of those that do not stop early
FLAWS = 'none', 'short', 'slip'
TASKS = {task.NAME: task for task in (word_problems, rising)}
RIGHT = 5.0


def get(name: str):
    """The task module of that name. KeyError names the choices."""
    if name not in TASKS:
        raise KeyError(f'no task named {name!r}; there are: {", ".join(TASKS)}')
    return TASKS[name]


def get_all(names: tuple) -> list:
    """The task modules of those names. KeyError for an unknown one, ValueError for none at all."""
    if not names:
        raise ValueError(f'no task to draw from; there are: {", ".join(TASKS)}')
    return [get(name) for name in names]


def check_split(split: str) -> None:
    """ValueError where there is no such split."""
    if split not in ('train', 'heldout'):
        raise ValueError(f'no split {split!r}; there are: train, heldout')


def is_held_out(text: str) -> bool:
    """Whether a problem is for evaluation: one in ten, by a hash of its text, so that the splits
    never overlap.
    """
    return hashlib.sha1(text.encode()).digest()[0] % 10 == 0


def problems(names, n: int, rng, split: str = 'train') -> list[Prompt]:
    """`n` different problems, the tasks in turn. `split` is 'train' or 'heldout'; they share no
    text.
    """
    check_split(split)
    if n < 1:
        raise ValueError(f'n={n} problems: want at least 1')
    makers, found, seen = get_all(names), [], set()
    while len(found) < n:
        prompt = makers[len(found) % len(makers)].make(rng)
        if is_held_out(prompt.text) == (split == 'heldout') and prompt.text not in seen:
            seen.add(prompt.text)
            digest = hashlib.sha1(prompt.text.encode()).hexdigest()[:12]
            found.append(dataclasses.replace(prompt, id=f'{prompt.id}/{digest}'))
    return found


def demonstrate(prompt: Prompt, rng, evenly: bool = False) -> str:
    """A *lazy demonstrator's* response to a built-in problem; `evenly`: all flaws, and none,
    equally often.
    """
    if evenly:
        flaw = str(rng.choice(FLAWS))
    else:
        flaw = 'short' if rng.random() < STOPS_EARLY else 'slip' if rng.random() < SLIPS else 'none'
    return get(prompt.meta['task']).demonstrate(prompt, rng, flaw)


def is_right(prompt: Prompt, response: str) -> bool:
    """Whether a response meets the truth of its task, built-in or published."""
    if prompt.meta['task'] in published.FORMS:
        return published.get(prompt.meta['task']).is_right(
            str(prompt.answer), answers.final_answer(response)
        )
    return get(prompt.meta['task']).grade(prompt, response) == RIGHT
