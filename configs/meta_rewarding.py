"""Meta-Rewarding Language Models (arXiv 2407.19594): rounds that learn to answer and, from pairs of
verdicts, to judge.

    python -m selfrew.main --config=configs/meta_rewarding.py --workdir=runs/meta_rewarding

Held-out accuracy, seed 0, 1,000 problems: 0.351 for the base, 0.697 after SFT, then 0.937, 0.893,
0.858 (± 0.02); the judge's strict pairwise accuracy 0.792, 0.801, then 0.813, 0.810, 0.788. A
minute and a half on two cores. Votes improve the judge for a round; then they make it, and with it
the answers, too generous. experiments/judging says why.

Each round's training takes pairs of answers and pairs of verdicts together, all sampled from the
model of the round before: it writes several verdicts on each of its own responses, and better ones
are set against worse ones. In the paper the model itself decides which is better, as a judge of
judges. The tiny base has no room for such a prompt and never saw one, so here its verdicts vote on
the score.

":llama3_8b", or another model of configs/models, is the paper's recipe, with the judge of judges.
It takes the response whose scores vary most, compares every two verdicts on it in both orders, and
pairs the one with most wins with the one with fewest. It reads trees.jsonl and eft.jsonl, see
configs/self_rewarding.py. To see what it needs of a TPU:

    python -m selfrew.plan --config=configs/meta_rewarding.py:llama3_8b --topology=v5p:2x2x4
"""

from configs import base, models, self_rewarding

# The verdicts are on these tasks; verdicts on rising numbers are right already.
TASKS = ('word_problems',)


def get_config(arg: str = ''):
    if arg in models.PRESETS:
        return at_scale(arg)
    if arg not in ('', 'smoke'):
        raise ValueError(
            f'no variant {arg!r} of this config; there are: smoke, {", ".join(models.PRESETS)}'
        )
    config = self_rewarding.get_config(arg).to_dict()
    small = base.is_smoke(arg)
    verdict_pairs = voted(24 if small else 300, base.sampling(4), base.judging(votes=8))
    answer_turn = config['round'] | {'join': {'verdicts': verdict_pairs}}
    answer_turn.pop('rehearsal', None)
    return base.get(**config | {'round': answer_turn})


def voted(problems: int, sampling: dict, judging: dict) -> dict:
    """`verdicts` on responses to word problems: the most common score against the rarest."""
    prompts = base.fresh(problems) | {'tasks': TASKS}
    return verdicts(prompts, sampling, judging) | {
        'scorer': {'name': 'consistency'},
        'pairs': {'name': 'extremes', 'weigh': True},
    }


def verdicts(prompts: dict, sampling: dict, judging: dict) -> dict:
    """Pairs of verdicts on the model's responses, one verdict for each of its votes."""
    options = {k: v for k, v in judging.items() if k not in ('name', 'template', 'votes')}
    return {
        'prompts': {
            'name': 'judged',
            'prompts': prompts,
            'sampler': sampling,
            'template': judging['template'],
        },
        'sampler': {'name': 'sample', 'n': judging['votes'], **options},
        'scorer': {'name': 'compare', 'template': 'meta', 'votes': 1, **options},
        'pairs': {'name': 'extremes'},
    }


def at_scale(name: str):
    """The paper's recipe (§2, §3.1). The paper picks a checkpoint out of ten epochs; here it is one
    epoch.
    """
    config = self_rewarding.at_scale(name, lora=False).to_dict()
    answer_turn, eft = config['round'], config['start']['prompts']['prompts'][1]
    answer_turn['prompts']['n'] = 5000
    answer_turn['sampler'] |= {'n': 7, 'temperature': 0.8, 'top_p': 0.95}
    answer_turn['scorer']['votes'] = 11
    answer_turn['train'] |= {'lr': 5e-6, 'batch': 32}
    verdict_pairs = verdicts(*(answer_turn[word] for word in ('prompts', 'sampler', 'scorer')))
    verdict_pairs['sampler'] = {'name': 'disputed', 'sampler': verdict_pairs['sampler']}
    config['start']['prompts'] = eft
    changes = {
        'rounds': 5,  # M0 by imitation of verdicts, then four
        'round': answer_turn | {'join': {'verdicts': verdict_pairs}},
        'by_round': {  # lengths in characters
            'pairs': {'rho': (0.0, 0.32, 0.32, 0.4), 'longest': (2500, None)},
            # The judge is taught in the first two rounds after M1.
            'join': {'verdicts': {'every': (1, 1, 0), 'pairs': {'longest': (1100, 1000)}}},
        },
    }
    return base.get(**config | changes)
