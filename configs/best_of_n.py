"""Best-of-N of the base by a verifier, from one pool of samples: reward, win rate and KL by N.

    python -m selfrew.main --config=configs/best_of_n.py --workdir=runs/best_of_n

Seed 0, 64 problems × 1,024 samples, the reward of the best of 1, 2, 4, 8, 16, 64: 0.302, 0.496,
0.723, 0.902, 0.981, 1.000; its KL, by the estimate, 0, 0.19, 0.61, 1.13, 1.68, 2.76 nats, by the
bound 0, 0.19, 0.64, 1.20, 1.84, 3.18. The tilted law has 0.735 at 0.43 nats, 0.950 at 1.03. Under a
minute on two cores.

There are no rounds; `eval_pool.jsonl` has the samples. The table shows the largest N; `evals.json`
has all (arXiv 2401.01879: the bound log N − (N − 1)/N, and the tighter estimate `kl`).

":bond" and ":bonbon" train the base towards its own best of 8. ":bond" (arXiv 2407.14622) is
reinforcement learning on ranks: best-of-N is the optimum for the reward log F(y), F the share of
samples that are no better, at β = 1/(N − 1). ":bonbon" (arXiv 2406.00832) imitates the best of 8,
and by IPO fits the log-ratio of best and worst to its expectation, 1/(2β) with
β = 1/(2(N − 1) Σ_{k<N} 1/k); its weights are recollections.
"""

from configs import base

N = 8


def get_config(arg: str = ''):
    if arg in ('bond', 'bonbon'):
        return _distilled(arg)
    if arg not in ('', 'smoke'):
        raise ValueError(f'no variant {arg!r} of this config; there are: smoke, bond, bonbon')
    small = arg == 'smoke'
    pool, sizes = (16, (1, 4, 16)) if small else (1024, (1, 2, 4, 8, 16, 64, 256, 1024))
    problems = base.accuracy(8 if small else 64)['prompts']
    return base.get(
        rounds=0,
        round={},
        evals={
            'pool': {
                'name': 'best_of_n',
                'prompts': problems,
                'sampler': base.sampling(pool),
                'scorer': {'name': 'exact_answer'},
                'sizes': sizes,
                'strengths': (0.5, 1.0, 2.0, 4.0, 8.0),
            },
            'best_of_8': {
                'name': 'accuracy',
                'prompts': problems,
                'sampler': {
                    'name': 'best_of_n',
                    'sampler': base.sampling(N),
                    'scorer': {'name': 'exact_answer'},
                },
                'scorer': {'name': 'exact_answer'},
            },
        },
    )


def _distilled(arg: str):
    if arg == 'bond':
        loss = {'name': 'rloo', 'beta': 1.0 / (N - 1), 'clip': 0.2}
        fields = base.online(False, loss=loss, samples=N)
        fields['round']['pairs']['log_ranks'] = True
        return base.get(**fields)
    beta = 1.0 / (2 * (N - 1) * sum(1.0 / k for k in range(1, N)))
    losses = [{'name': 'sft', 'mean': 'sum'}, {'name': 'ipo', 'tau': beta}]
    loss = {'name': 'sum', 'losses': losses, 'weights': (0.005, 0.995)}
    fields = base.online(False, loss=loss, samples=N)
    fields['round']['pairs'] = {'name': 'extremes', 'count': 1}
    fields['round']['train']['epochs'] = 1
    return base.get(**fields)
