"""Meta-Rewarding Language Models (arXiv 2407.19594): rounds that learn to answer and, from pairs of
verdicts, to judge.

    python -m selfrew.main --config=configs/meta_rewarding.py --workdir=runs/meta_rewarding

Held-out accuracy, seed 0, 1,000 problems: 0.351 as the base comes, 0.697 after SFT, then 0.919,
0.911, 0.877 (± 0.02); the judge's strict pairwise accuracy 0.792, 0.801, then 0.813, 0.794, 0.783.
Four minutes on two cores, with another run beside. Votes improve a judge for a round and then make
it generous, and the answers with it: experiments/judging says why.

After each round's answers comes a turn on verdicts: several on each of the model's own responses,
of which the better one is set against the worse. Which is better the paper asks the model itself,
as a judge of judges; the tiny base has no room for such a prompt and never saw one, so here its
verdicts vote on the score.

":llama3_8b", or another model of configs/models, is the paper's recipe, with the judge of judges:
of a prompt's responses the one whose scores vary most, every two verdicts on it compared in both
orders, most wins against fewest. It is for trees.jsonl and eft.jsonl, see
configs/self_rewarding.py. What it needs of a TPU:

    python -m selfrew.plan --config=configs/meta_rewarding.py:llama3_8b --topology=v5p:2x2x4
"""

from configs import base, models, self_rewarding

TASKS = ('word_problems',)  # on whose verdicts; those on rising numbers are right as they are


def get_config(arg: str = ''):
    if arg in models.PRESETS:
        return at_scale(arg)
    if arg not in ('', 'smoke'):
        raise ValueError(
            f'no variant {arg!r} of this config; there are: smoke, {", ".join(models.PRESETS)}'
        )
    config = self_rewarding.get_config(arg).to_dict()
    answers = config['round']
    rehearsal = voted(
        24 if base.smoke(arg) else 300,
        base.sampling(4),
        base.judging(votes=8),
        answers['train'],
        answers['loss'],
    )
    return base.get(**config | {'round': answers | {'rehearsal': rehearsal}})


def voted(n: int, sampling: dict, judging: dict, train: dict, loss: dict) -> dict:
    """`verdicts` on responses to n word problems, where the most common score is set against the
    rarest.
    """
    return verdicts(base.fresh(n) | {'tasks': TASKS}, sampling, judging, train, loss) | {
        'scorer': {'name': 'consistency'},
        'pairs': {'name': 'extremes', 'weigh': True},
    }


def verdicts(prompts: dict, sampling: dict, judging: dict, train: dict, loss: dict) -> dict:
    """A turn of pairs of verdicts: judge prompts over the model's responses, as many verdicts on
    each as a judge has votes.
    """
    written = {k: v for k, v in judging.items() if k not in ('name', 'template', 'votes')}
    return {
        'prompts': {
            'name': 'judged',
            'prompts': prompts,
            'sampler': sampling,
            'template': judging['template'],
        },
        'sampler': {'name': 'sample', 'n': judging['votes'], **written},
        'scorer': {'name': 'compare', 'template': 'meta', 'votes': 1, **written},
        'pairs': {'name': 'extremes'},
        'loss': loss,
        'train': train,
    }


def at_scale(name: str):
    """The paper's recipe (§2, §3.1). It chooses among the checkpoints of ten epochs; one epoch
    here.
    """
    config = self_rewarding.at_scale(name, lora=False).to_dict()
    answers, eft = config['round'], config['start']['prompts']['prompts'][1]
    answers['prompts']['n'] = 5000
    answers['sampler'] |= {'n': 7, 'temperature': 0.8, 'top_p': 0.95}
    answers['scorer']['votes'] = 11
    answers['train'] |= {'lr': 5e-6, 'batch': 32}
    judging = verdicts(
        answers['prompts'], answers['sampler'], answers['scorer'], answers['train'], answers['loss']
    )
    judging['sampler'] = {'name': 'disputed', 'sampler': judging['sampler']}
    config['start']['prompts'] = eft
    return base.get(
        **config
        | {
            'rounds': 5,  # M0 by imitation of verdicts, then four
            'round': answers | {'rehearsal': judging},
            'by_round': {  # lengths in characters
                'pairs': {'rho': (0.0, 0.32, 0.32, 0.4), 'longest': (2500, None)},
                'rehearsal': {'every': (1, 1, 0), 'pairs': {'longest': (1100, 1000)}},
            },
        }
    )
