"""Seed data for judging (EFT, arXiv 2401.10020, §3.1): the verdicts of an imitating model that
agree with people.

    python -m selfrew.main --config=configs/seed_data.py --workdir=runs/seed_data

Round 1 is the paper's "SFT baseline", trained on answers alone. In round 2 it judges answers that
people have ranked. Verdicts that rank them alike are kept, with a limit on the most common score.
They end up in runs/seed_data/rounds/02/examples.jsonl; training on them here only shows what they
are worth.

Seed 0, 1,000 prompts × 3 answers, 3 votes: 2,131 verdicts; the judge's strict pairwise accuracy on
held-out answers 0.792 → 0.790 → 0.806. 70 seconds on two cores, beside other work.

":llama2_70b", or another model of configs/models, does the same with trees.jsonl, conversation
trees in OpenAssistant's format.
"""

from configs import base, models, self_rewarding


def get_config(arg: str = ''):
    if arg in models.PRESETS:
        return at_scale(arg)
    small = base.is_smoke(arg)
    prompts = 40 if small else 1000
    learn = base.imitation_turn(base.ift(prompts), lr=2e-4)
    ranked = {'name': 'ranked', 'tasks': base.TASKS, 'n': prompts, 'responses': 3, 'split': 'train'}
    return base.get(
        rounds=2,
        start=learn,
        round=learn | verdicts(ranked, base.judging(votes=3), 'check'),
        evals={
            'accuracy': base.accuracy(40 if small else 1000),
            'judge': base.judge(3, 10 if small else 150),
        },
    )


def verdicts(prompts: dict, judging: dict, template: str) -> dict:
    """A turn's parts that judge ranked answers and keep the verdicts that agree with the ranks."""
    return {
        'prompts': prompts,
        'sampler': {'name': 'given'},
        'scorer': judging,
        'pairs': {'name': 'agreeing', 'template': template},
        'balance': 0.4,
    }


def at_scale(name: str):
    """configs/self_rewarding.py at that scale, except for EFT, which is made here."""
    config = self_rewarding.at_scale(name, lora=False).to_dict()
    ift, judging = config['start']['prompts']['prompts'][0], config['round']['scorer']
    start = config['start'] | {'prompts': ift}
    ranked = {'name': 'trees', 'source': ift['source'], 'part': 'eft'}
    turn = start | verdicts(ranked, judging, judging['template'])
    return base.get(**config | {'rounds': 2, 'start': start, 'round': turn})
