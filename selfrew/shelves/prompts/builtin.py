"""Prompts of the built-in tasks, whose truth can be computed."""

import dataclasses

from selfrew import tasks as builtin_tasks
from selfrew.mesh import keys
from selfrew.tasks import templates
from selfrew.types import Prompt, user_prompt


def task(
    lm, params, key, *, tasks: tuple, n: int, split: str = 'train', answers: bool = False
) -> list[Prompt]:
    """`n` new problems of built-in tasks, one of each task in turn.

    Args:
      tasks: names, see selfrew.tasks. split: 'train' or 'heldout'; they share no problem.
      answers: whether the prompts carry the truth. Without it, no later part can see it.
    Raises KeyError for an unknown task and ValueError for an unknown split.
    """
    del lm, params
    problems = builtin_tasks.problems(tasks, n, keys.numpy_rng(key), split)
    return problems if answers else [_without_truth(problem) for problem in problems]


def demonstrations(
    lm,
    params,
    key,
    *,
    tasks: tuple,
    n: int,
    lazy: bool = True,
    terse: float = 0.0,
    split: str = 'train',
    answers: bool = False,
) -> list[Prompt]:
    """`n` problems, each with a demonstrated response: seed data for instruction following (IFT).

    Args:
      lazy: whether a lazy demonstrator responds; else the solutions are flawless, like the gold
        solutions of a data set.
      terse: the share of the responses that are the final answer alone.
      split, answers: see `task`.
    Raises KeyError for an unknown task and ValueError for an unknown split.
    """
    del lm, params
    rng, prompts = keys.numpy_rng(key), []
    for problem in builtin_tasks.problems(tasks, n, rng, split):
        if lazy:
            response = builtin_tasks.demonstrate(problem, rng)
        else:
            response = builtin_tasks.module_of(problem).demonstrate(problem, rng, 'none')
        if terse and rng.random() < terse:
            response = response[response.index('Final answer:') :]
        prompt = _without_truth(problem, responses=[response])
        truth = problem.answer if answers else None
        prompts.append(dataclasses.replace(prompt, answer=truth))
    return prompts


@templates.shows('response', prompt='p', response='r')
def verdicts(lm, params, key, *, tasks: tuple, n: int, template: str = 'check') -> list[Prompt]:
    """`n` judge prompts, each with a worked verdict: seed data for judging (EFT).

    The judged responses have each flaw, and none, equally often.

    Args:
      template: of the judge prompt; use the same one in scorers.judge.
    Raises KeyError for an unknown task, FileNotFoundError for an unknown template.
    """
    del lm, params
    rng, prompts = keys.numpy_rng(key), []
    for problem in builtin_tasks.problems(tasks, n, rng):
        response = builtin_tasks.demonstrate(problem, rng, has_even_flaws=True)
        text = templates.render(template, prompt=problem.text, response=response)
        verdict = builtin_tasks.module_of(problem).worked_verdict(problem, response)
        name = problem.meta['task']
        prompts.append(user_prompt(f'verdict/{problem.id}', text, task=name, responses=[verdict]))
    return prompts


def ranked(
    lm, params, key, *, tasks: tuple, n: int, responses: int = 4, split: str = 'heldout'
) -> list[Prompt]:
    """`n` problems, each with `responses` answers of lazy demonstrators and their true grades: to
    test a judge. The grades of a problem are never all equal.

    Raises KeyError for an unknown task, ValueError for an unknown split or fewer than two
    responses.
    """
    del lm, params
    if responses < 2:
        raise ValueError(f'responses={responses}: want at least 2, to be ranked')
    rng, prompts = keys.numpy_rng(key), []
    for problem in builtin_tasks.problems(tasks, n, rng, split):
        grade = builtin_tasks.module_of(problem).grade
        texts, grades = [], []
        while len(set(grades)) < 2:
            texts = [builtin_tasks.demonstrate(problem, rng) for _ in range(responses)]
            grades = [grade(problem, text) for text in texts]
        meta = problem.meta | {'responses': texts, 'grades': grades}
        prompts.append(Prompt(problem.id, problem.messages, problem.answer, meta))
    return prompts


def _without_truth(problem: Prompt, **meta) -> Prompt:
    """The problem without answer and meta, apart from the task's name and the given `meta`."""
    return Prompt(problem.id, problem.messages, None, {'task': problem.meta['task'], **meta})
