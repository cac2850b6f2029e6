"""Evaluations of responses to prompts that have no truth: by their scores, and against an
opponent's.
"""

import dataclasses
import math

import jax
import numpy as np

from selfrew.engine import saved_models
from selfrew.shelves.evals.intervals import mean_of, student, wilson
from selfrew.types import Rollout

JUDGES = 'current', 'base'


def check_judged_by(judged_by: str) -> None:
    """Raises ValueError for a judge that there is not."""
    if judged_by not in JUDGES:
        raise ValueError(f'no judge {judged_by!r}; there are: {", ".join(JUDGES)}')


def check_opponent(opponent: str) -> None:
    """Raises FileNotFoundError or ValueError if there is no such model, see saved_models.check."""
    saved_models.check(opponent)


def _judges_params(lm, params, judged_by: str):
    """The parameters that a scorer judges with."""
    check_judged_by(judged_by)
    return params if judged_by == 'current' else lm.base_of(params)


def mean_score(lm, params, key, *, prompts, sampler, scorer, judged_by: str = 'current'):
    """The mean over prompts of the mean score of a prompt's responses, by any scorer.

    The interval is Student's, of a mean over prompts: ± t · s / √n; nan for a single prompt.

    Args:
      judged_by: the parameters with which a scorer that asks the model asks it: 'current', those
        evaluated, so that the model judges itself and its measure changes with it; or 'base', those
        before any training, which without adapters are a second copy in memory meanwhile.
    'n' prompts have a score. Responses without a verdict are left out; 'no_verdict' is their share,
    in which a prompt without a response counts as one.
    """
    k_prompts, k_sampler, k_scorer = jax.random.split(key, 3)
    prompt_list = prompts(lm, params, k_prompts)
    rollouts = sampler(lm, params, prompt_list, k_sampler)
    judgements = scorer(lm, _judges_params(lm, params, judged_by), rollouts, k_scorer)
    means, missing = [], [True] * (len(prompt_list) - len(judgements))
    for judgement in judgements:
        valid = [score for score in judgement.scores if not math.isnan(score)]
        missing += map(math.isnan, judgement.scores)
        means += [mean_of(valid)] if valid else []
    low, high = student(means)
    metrics = {'value': mean_of(means), 'low': low, 'high': high, 'n': len(means)}
    lengths = [len(a.tokens) for rollout in rollouts for a in rollout.responses]
    return metrics | {'no_verdict': mean_of(missing), 'length': mean_of(lengths)}, judgements


def win_rate(
    lm,
    params,
    key,
    *,
    prompts,
    sampler,
    scorer,
    opponent: str | None = None,
    judged_by: str = 'current',
):
    """How often the model's response beats an opponent's to the same prompt; a tie is half a win.

    The scorer gets both responses as one rollout, the model's first. The higher score wins; equal
    scores are a tie. `compare` shows a judge both orders. Of several responses to a prompt, the
    i-th meets the i-th, and the share counts. The interval is Wilson's; with ties it is too wide.

    Args:
      sampler: of both. The draws are independent of each other, and the same in every round.
      opponent: a folder, a hub name, or the folder of a run, of which the last saved state counts
        (see saved_models); None: the model before any training. While it samples, it lies in memory
        beside the model, but for the base of a model with adapters. Its responses are kept for the
        later rounds of this process.
      judged_by: see `mean_score`; by default the model judges itself.
    'wins', 'ties' and 'losses' are shares of the verdicts; 'n' prompts have one. Comparisons
    without a verdict are left out; 'no_verdict' is their share, in which a prompt that either model
    has no response to counts as one. 'length' and 'opponent_length' are in tokens of the model.
    Raises ValueError if the opponent's chat template refuses a prompt.
    """
    k_prompts, k_sampler, k_opponent, k_scorer = jax.random.split(key, 4)
    prompt_list = prompts(lm, params, k_prompts)
    replies = _replies(lm, params, prompt_list, k_opponent, sampler, opponent)
    own = {r.prompt.id: r.responses for r in sampler(lm, params, prompt_list, k_sampler)}
    pairings, asked = [], []
    for prompt in prompt_list:
        met = list(zip(own.get(prompt.id, ()), replies.get(prompt.id, ())))
        for i, both in enumerate(met):
            # Ids are distinct, since a judge's draws depend on them.
            named = prompt if len(met) == 1 else dataclasses.replace(prompt, id=f'{prompt.id}/{i}')
            pairings.append(Rollout(named, both))
            asked.append(prompt.id)
    judge_params = _judges_params(lm, params, judged_by)
    judgements = scorer(lm, judge_params, pairings, k_scorer) if pairings else []
    outcomes = {prompt.id: [] for prompt in prompt_list}
    for id, judgement in zip(asked, judgements):
        outcomes[id].append(_outcome(*judgement.scores))
    metrics = _win_metrics(list(outcomes.values()))
    for name, side in (('length', 0), ('opponent_length', 1)):
        metrics[name] = mean_of([len(rollout.responses[side].tokens) for rollout in pairings])
    return metrics, judgements


def _outcome(score: float, other: float) -> float:
    """1 for a win, 0.5 for a tie, 0 for a loss, nan where either score is."""
    if math.isnan(score) or math.isnan(other):
        return math.nan
    return 0.5 if score == other else float(score > other)


def _win_metrics(outcomes: list[list[float]]) -> dict:
    """The metrics of `win_rate` from the outcomes of each prompt's comparisons."""
    valid = [[o for o in row if not math.isnan(o)] for row in outcomes]
    valid = [row for row in valid if row]
    wins, ties, losses = (
        mean_of([row.count(kind) / len(row) for row in valid]) for kind in (1.0, 0.5, 0.0)
    )
    won = sum(mean_of(row) for row in valid)
    low, high = wilson(won, len(valid))
    missing = [math.isnan(o) for row in outcomes for o in row or (math.nan,)]
    return {
        'value': won / len(valid) if valid else math.nan,
        'low': low,
        'high': high,
        'n': len(valid),
        'wins': wins,
        'ties': ties,
        'losses': losses,
        'no_verdict': mean_of(missing),
    }


def _replies(lm, params, prompts, key, sampler, opponent: str | None) -> dict:
    """Prompt id -> responses of the opponent, which are the same in every round: they are sampled
    once in a process.
    """
    place = None if opponent is None else saved_models.locate(opponent)
    draws = tuple(np.asarray(jax.random.key_data(key)).tolist())
    asked = lm, sampler, place, draws, tuple((prompt.id, prompt.text) for prompt in prompts)
    if asked not in _kept_replies:
        if len(_kept_replies) >= KEPT:
            del _kept_replies[next(iter(_kept_replies))]
        _kept_replies[asked] = _sample_replies(lm, params, prompts, key, sampler, opponent)
    return _kept_replies[asked]


KEPT = 16  # opponents whose responses are kept
_kept_replies = {}  # model, sampler, opponent, key, prompts -> prompt id -> responses


def _sample_replies(lm, params, prompts, key, sampler, opponent: str | None) -> dict:
    if opponent is None:
        rollouts = sampler(lm, lm.base_of(params), prompts, key)
        return {rollout.prompt.id: rollout.responses for rollout in rollouts}
    other, other_params = saved_models.load(opponent, lm)
    other = dataclasses.replace(other, text=other.text.at(lm.text.now))
    replies = {r.prompt.id: r.responses for r in sampler(other, other_params, prompts, key)}
    if other.text.tokenizer.get_vocab() == lm.text.tokenizer.get_vocab():
        return replies
    return {id: tuple(_retokenized(lm.text, r) for r in each) for id, each in replies.items()}


def _retokenized(text, response):
    """A response of a model with another tokenizer, in the tokens of this one."""
    tokens = tuple(text.response_tokens(response.text, response.finish))
    return dataclasses.replace(response, tokens=tokens, logp=None)
