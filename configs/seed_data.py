"""Seed data for judging (EFT, arXiv 2401.10020, §3.1): verdicts of a model that imitates, where
they agree with people.

    python -m selfrew.main --config=configs/seed_data.py --workdir=runs/seed_data

Round 1 is the paper's "SFT baseline", trained on answers alone. Round 2 has it judge answers that
people have ranked; verdicts whose ranking is theirs are kept, and of the most common score only so
many. What is kept is runs/seed_data/rounds/02/examples.jsonl; it is trained on here only to see
what it is worth.

Seed 0, 1,000 prompts × 3 answers, 3 votes: 2,131 verdicts; the judge's strict pairwise accuracy on
held-out answers 0.792 → 0.790 → 0.806. 70 seconds on two cores, with other work beside.

":llama2_70b", or another model of configs/models, does that with trees.jsonl, conversation trees in
OpenAssistant's format.
"""

from configs import base, models, self_rewarding


def get_config(arg: str = ''):
    if arg in models.PRESETS:
        return at_scale(arg)
    small = base.smoke(arg)
    n = 40 if small else 1000
    learn = base.imitate(base.ift(n), lr=2e-4)
    return base.get(
        rounds=2,
        start=learn,
        round=learn
        | verdicts(
            {'name': 'ranked', 'tasks': base.TASKS, 'n': n, 'responses': 3, 'split': 'train'},
            base.judging(votes=3),
            'check',
        ),
        evals={
            'accuracy': base.accuracy(40 if small else 1000),
            'judge': base.judge(3, 10 if small else 150),
        },
    )


def verdicts(prompts: dict, judging: dict, template: str) -> dict:
    """The parts of a turn that judges ranked answers and learns from the verdicts that agree with
    the ranks.
    """
    return {
        'prompts': prompts,
        'sampler': {'name': 'given'},
        'scorer': judging,
        'pairs': {'name': 'agreeing', 'template': template},
        'balance': 0.4,
    }


def at_scale(name: str):
    """What configs/self_rewarding.py is at that scale, but for EFT, which is made here."""
    config = self_rewarding.at_scale(name, lora=False).to_dict()
    ift, judging = config['start']['prompts']['prompts'][0], config['round']['scorer']
    start = config['start'] | {'prompts': ift}
    ranked = {'name': 'trees', 'source': ift['source'], 'part': 'eft'}
    return base.get(
        **config
        | {
            'rounds': 2,
            'start': start,
            'round': start | verdicts(ranked, judging, judging['template']),
        }
    )
