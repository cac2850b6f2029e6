"""What a model is worth. The shelf's contract: (lm, params, key, *, prompts, sampler, scorer) ->
(metrics, judgements).

An evaluation is a round without training. `metrics` are floats: 'value' is the headline, 'low' and
'high' its 95 % interval. A scorer that asks the model (judge, compare) asks it with the parameters
that are evaluated, unless the evaluation says otherwise.
Import from it: the parts below; `evals` is imported whole.
It imports: types, tasks, engine.
"""

from selfrew.shelves.evals.answers import accuracy, exploration, majority
from selfrew.shelves.evals.intervals import student, wilson
from selfrew.shelves.evals.judges import judge, judge_metrics, missing_votes
from selfrew.shelves.evals.limits import check_scales, length_limits
from selfrew.shelves.evals.preferences import (
    check_judged_by,
    check_opponent,
    mean_score,
    win_rate,
)
from selfrew.shelves.evals.reward_kl import best_of_n, check_sizes, check_strengths, reward_kl

__all__ = [
    'accuracy',
    'best_of_n',
    'check_judged_by',
    'check_opponent',
    'check_scales',
    'check_sizes',
    'check_strengths',
    'exploration',
    'judge',
    'judge_metrics',
    'length_limits',
    'majority',
    'mean_score',
    'missing_votes',
    'reward_kl',
    'student',
    'wilson',
    'win_rate',
]
