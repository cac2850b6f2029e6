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


def exploration(lm, params, key, *, prompts, sampler, scorer, threshold: float = 0.5):
    """The share of prompts with any right response among several (pass@n); the interval is
    Wilson's. A prompt without a rollout, or without a verdict, has none.

    The other metrics are those of tasks.exploration.measures, and 'score', the mean over all
    responses: 'best_score' is what best-of-n by this scorer attains. Responses without a verdict
    are left out; 'no_verdict' is their share.

    Args:
      threshold: a score of at least this is right.
    Raises ValueError where a prompt has fewer than two responses.
    """
    prompt_list, judgements = judge_samples(lm, params, key, prompts, sampler, scorer)
    if any(len(judgement.scores) < 2 for judgement in judgements):
        raise ValueError('exploration wants at least two responses a prompt; raise sampler.n')
    covered = sum(any(score >= threshold for score in j.scores) for j in judgements)
    low, high = wilson(covered, len(prompt_list))
    metrics = {'value': covered / len(prompt_list), 'low': low, 'high': high}
    metrics |= {'n': len(prompt_list)} | measures(judgements)
    metrics.pop('coverage', None)  # of the prompts with a rollout, at the threshold 0.5
    scores = [score for judgement in judgements for score in judgement.scores]
    known = [score for score in scores if not math.isnan(score)]
    metrics |= {'score': mean_of(known), 'no_verdict': mean_of(list(map(math.isnan, scores)))}
    return metrics, judgements
