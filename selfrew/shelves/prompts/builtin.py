"""Prompts of the built-in tasks, whose truth can be computed."""

from selfrew import tasks as builtin_tasks
from selfrew.mesh import keys
from selfrew.tasks import templates
from selfrew.types import Prompt, ask

# --- built-in tasks ---------------------------------------------------------------------------------------------------


def task(
    lm, params, key, *, tasks: tuple, n: int, split: str = 'train', answers: bool = False
) -> list[Prompt]:
    """`n` new problems of built-in tasks, in turn.

    Args:
      tasks: names, see selfrew.tasks. split: 'train' or 'heldout'; they share no problem.
      answers: whether the prompts carry the truth. Without it nothing behind this point can see it.
    Raises KeyError for a task and ValueError for a split that does not exist.
    """
    del lm, params
    found = builtin_tasks.problems(tasks, n, keys.numpy_rng(key), split)
    return (
        found
        if answers
        else [Prompt(p.id, p.messages, None, {'task': p.meta['task']}) for p in found]
    )


def demonstrations(lm, params, key, *, tasks: tuple, n: int, lazy: bool = True) -> list[Prompt]:
    """`n` training problems, each with the response of a lazy demonstrator: seed data for following
    instructions (IFT).

    Args:
      lazy: or else a flawless solution, as a data set's gold ones are.
    Raises KeyError for a task that does not exist.
    """
    del lm, params
    rng = keys.numpy_rng(key)
    show = lambda p: (
        builtin_tasks.demonstrate(p, rng) if lazy else _module(p).demonstrate(p, rng, 'none')
    )
    return [
        Prompt(p.id, p.messages, None, {'task': p.meta['task'], 'responses': [show(p)]})
        for p in builtin_tasks.problems(tasks, n, rng)
    ]


def verdicts(lm, params, key, *, tasks: tuple, n: int, template: str = 'check') -> list[Prompt]:
    """`n` judge prompts over responses flawed in all ways, each with a worked verdict: seed data
    for judging (EFT).

    Args:
      template: of the judge's prompt; the one that scorers.judge is to use.
    Raises KeyError for a task, FileNotFoundError for a template that does not exist.
    """
    del lm, params
    rng, out = keys.numpy_rng(key), []
    for p in builtin_tasks.problems(tasks, n, rng):
        response = builtin_tasks.demonstrate(p, rng, evenly=True)
        asked = templates.render(template, prompt=p.text, response=response)
        out.append(
            ask(
                f'verdict/{p.id}',
                asked,
                task=p.meta['task'],
                responses=[_module(p).worked_verdict(p, response)],
            )
        )
    return out


def ranked(
    lm, params, key, *, tasks: tuple, n: int, responses: int = 4, split: str = 'heldout'
) -> list[Prompt]:
    """`n` problems with `responses` lazy demonstrators' answers each, not all of the same true
    grade: to test a judge.

    Raises KeyError for a task, ValueError for a split that does not exist or fewer than two
    responses.
    """
    del lm, params
    if responses < 2:
        raise ValueError(f'responses={responses}: want at least 2, to be ranked')
    rng, out = keys.numpy_rng(key), []
    for p in builtin_tasks.problems(tasks, n, rng, split):
        grades = []
        while len(set(grades)) < 2:
            given = [builtin_tasks.demonstrate(p, rng) for _ in range(responses)]
            grades = [_module(p).grade(p, g) for g in given]
        out.append(
            Prompt(p.id, p.messages, p.answer, p.meta | {'responses': given, 'grades': grades})
        )
    return out


def _module(prompt: Prompt):
    return builtin_tasks.get(prompt.meta['task'])
