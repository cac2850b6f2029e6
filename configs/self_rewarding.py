"""Self-Rewarding Language Models (arXiv 2401.10020) on the tiny base: SFT on IFT + EFT, then
self-judged rounds.

    python -m selfrew.main --config=configs/self_rewarding.py --workdir=runs/self_rewarding

Held-out accuracy, seed 0, 1,000 problems: 0.351 as the base comes, 0.657 after SFT, then 0.868,
0.917, 0.905 (± 0.02); the judge's strict pairwise accuracy stays about 0.80. Four and a half
minutes on two cores, with another run beside.

No ground truth enters the training. ":paper" is the paper's recipe to the letter where it can be at
this size: one pair a prompt, 4 candidates, 3 votes, temperature 0.7, top_p 0.9, plain DPO, batch
16, no rehearsal.

":llama2_70b", or another model of configs/models, is that recipe at the paper's scale, on
trees.jsonl, conversation trees in OpenAssistant's format, and eft.jsonl, the examples.jsonl that
configs/seed_data.py made of them. New prompts are made up, in the manner of the trees', by a fixed
Llama-2-70B-Chat; with ":llama3_8b+lora", which trains adapters, by the model itself. What it needs
of a TPU:

    python -m selfrew.plan --config=configs/self_rewarding.py:llama2_70b --topology=v5p:4x4x4
"""

from configs import base, models


def get_config(arg: str = ''):
    name, _, extra = arg.partition('+')
    if name in models.PRESETS and extra in ('', 'lora'):
        return at_scale(name, extra == 'lora')
    if arg not in ('', 'smoke', 'paper'):
        raise ValueError(
            f'no variant {arg!r} of this config; there are: smoke, paper, and, each also with +lora, '
            f'{", ".join(models.PRESETS)}'
        )
    paper, small = arg == 'paper', base.smoke('' if arg == 'paper' else arg)
    n = 24 if small else 1000
    judging = base.judging(votes=3)
    turn = {
        'prompts': base.fresh(n),
        'sampler': base.sampling(4),
        'scorer': judging,
        'pairs': {'name': 'extremes', 'count': 1},
        'loss': {'name': 'dpo', 'beta': 0.1, 'nll': 5.0},
        'train': base.training(lr=3e-5, batch=32),
        'rehearsal': {'every': 1, **base.imitate(base.eft(n), lr=2e-4)},
    }
    if paper:
        del turn['rehearsal']
        turn['loss']['nll'] = 0.0
        turn['sampler'] |= {'temperature': 0.7, 'top_p': 0.9}
        judging['top_p'] = 0.9
        turn['train'] = base.training(lr=3e-5, batch=16, schedule='cosine', final=0.1)
    return base.get(
        rounds=2 if small else 4,
        start=base.imitate(base.ift(n), base.eft(n), lr=2e-4),
        round=turn,
        evals={
            'accuracy': base.accuracy(40 if small else 1000),
            'judge': base.judge(3, 10 if small else 150),
        },
    )


def at_scale(name: str, lora: bool):
    """The paper's recipe (§3.1), with a published model. The paper stops early instead of counting
    epochs, and has a dropout of 0.1, which is left out."""
    model = models.get(name)
    large = model['shape']['hidden_size'] >= 8192
    votes = {'temperature': 0.7, 'top_p': 0.9, 'slots': 256}
    learn = {'batch': 16, 'row_length': 4096, 'warmup': 0.0, 'schedule': 'cosine'}
    trees = {'name': 'trees', 'source': 'trees.jsonl', 'part': 'ift'}
    given = trees | {'n': 3200}, {'name': 'examples', 'source': 'eft.jsonl', 'n': 1630}
    invented = {'name': 'self_instruct', 'prompts': trees, 'n': 7000, 'slots': 256}
    if not lora:  # a fixed model; App. A.5 has the model itself do it
        invented |= {
            'generator': models.get('llama2_70b_chat')['folder'],
            'dtype': 'bfloat16',
            'stored': 'bfloat16',
        }
    judging = {
        'name': 'judge',
        'template': 'additive',
        'votes': 3,
        'max_tokens': 256,
        **votes,
        'slots': 64 if lora else 256,
    }  # what small chips hold of a judge's long prompts
    scale = 10.0 if lora else 1.0  # adapters start at 0 and want larger steps
    start = base.imitate(*given, lr=0.0) | {
        'train': base.training(lr=5.5e-6 * scale, final=0.2, epochs=2, **learn)
    }
    return base.get(
        rounds=3,  # M1 by imitation, then M2 and M3
        keep_states=1,
        model=base.model()
        | model
        | {
            'dtype': 'bfloat16',
            'params': 'bfloat16',
            'max_length': 4096,
            'remat': 'full',
            'lora': 16 if lora else 0,
            **(
                {'chat_template': 'plain'}
                if name.startswith('llama2') and not name.endswith('chat')
                else {}
            ),
        },
        # All devices. Rows are split over data × fsdp: where that is more than a batch has
        # examples, the rest is padding.
        mesh={'data': 1, 'fsdp': -1, 'tensor': 4 if large else 1},
        start=start,
        round={
            'prompts': invented,
            'sampler': {'name': 'sample', 'n': 4, 'max_tokens': 1024, **votes},
            'scorer': judging,
            'pairs': {'name': 'extremes', 'count': 1},
            'loss': {'name': 'dpo', 'beta': 0.1},
            'train': base.training(lr=1e-6 * scale, final=0.1, **learn),
        },
        evals={
            'judge': {
                'name': 'judge',
                'prompts': trees | {'part': 'heldout'},
                'sampler': {'name': 'given'},
                'scorer': judging,
            }
        },
    )
