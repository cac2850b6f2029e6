"""Evaluations of answers that have a truth."""

import dataclasses
import math
from collections import Counter, defaultdict

import numpy as np

from selfrew import tasks
from selfrew.shelves.evals.intervals import mean_of, wilson
from selfrew.shelves.evals.samples import judge_samples
from selfrew.tasks.exploration import measures
from selfrew.types import Judgement


def accuracy(lm, params, key, *, prompts, sampler, scorer):
    """The share of prompts with a right response (score at least 0.5), overall and by task.

    Of several responses to a prompt, the share that is right counts. A prompt without a rollout
    counts as wrong. The interval is Wilson's.
    Raises ValueError where a response has no verdict: its prompt has no answer.
    """
    prompt_list, judgements = judge_samples(lm, params, key, prompts, sampler, scorer)
    return _share_right('accuracy', prompt_list, judgements), judgements


def _share_right(name: str, prompts, judgements) -> dict:
    """The metrics of `accuracy`; `name` is the evaluation's, for the error message."""
    right = {prompt.id: 0.0 for prompt in prompts}
    lengths = []
    for judgement in judgements:
        prompt = judgement.rollout.prompt
        if any(map(math.isnan, judgement.scores)):
            raise ValueError(
                f'{name}: a response to prompt {prompt.id!r} has no verdict; '
                f'does the prompt have an answer?'
            )
        right[prompt.id] = float(np.mean([score >= 0.5 for score in judgement.scores]))
        lengths += [len(response.tokens) for response in judgement.rollout.responses]
    low, high = wilson(sum(right.values()), len(right))
    by_task = defaultdict(list)
    for prompt in prompts:
        by_task[prompt.meta.get('task')].append(right[prompt.id])
    metrics = {'value': sum(right.values()) / len(right), 'low': low, 'high': high, 'n': len(right)}
    metrics |= {
        task: float(np.mean(shares)) for task, shares in sorted(by_task.items(), key=str) if task
    }
    return metrics | {'length': mean_of(lengths)}


def majority(lm, params, key, *, prompts, sampler, scorer):
    """The share of prompts whose most common final answer is right; metrics as in `accuracy`.

    Of equally common answers, the first counts. Responses without a final answer have no vote; a
    prompt without votes counts as wrong. 'agreement' is the mean share of the most common answer.
    """
    prompt_list, judgements = judge_samples(lm, params, key, prompts, sampler, scorer)
    winners, agreement = [], []
    for judgement in judgements:
        rollout = judgement.rollout
        votes = [tasks.vote(rollout.prompt, response) for response in rollout.responses]
        most_common = Counter(vote for vote in votes if vote is not None).most_common(1)
        index, score = 0, 0.0
        if most_common:
            index = votes.index(most_common[0][0])
            score = judgement.scores[index]
        agreement.append(most_common[0][1] / len(votes) if most_common else 0.0)
        winner = dataclasses.replace(rollout, responses=(rollout.responses[index],))
        winners.append(Judgement(winner, (score,)))
    metrics = _share_right('majority', prompt_list, winners)
    return metrics | {'agreement': mean_of(agreement)}, judgements


def exploration(lm, params, key, *, prompts, sampler, scorer):
    """The share of prompts with any right response among several (pass@n); the interval is
    Wilson's. A prompt without a rollout has none.

    The other metrics are those of tasks.exploration.measures, and 'score', the mean over all
    responses: 'best_score' is what best-of-n by this scorer attains.
    Raises ValueError where prompts have fewer than two responses, or scores are not from 0 to 1.
    """
    prompt_list, judgements = judge_samples(lm, params, key, prompts, sampler, scorer)
    metrics = measures(judgements)
    if judgements and 'coverage' not in metrics:
        raise ValueError(
            'exploration wants at least two responses a prompt, and scores from 0 to 1, as those '
            'of exact_answer'
        )
    n = len(prompt_list)
    covered = metrics.pop('coverage', 0.0) * len(judgements)
    low, high = wilson(covered, n)
    scores = [score for judgement in judgements for score in judgement.scores]
    headline = {'value': covered / n, 'low': low, 'high': high, 'n': n}
    return headline | metrics | {'score': mean_of(scores)}, judgements
