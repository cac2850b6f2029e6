"""Self-Rewarding Language Models (arXiv 2401.10020) on the tiny base: SFT on IFT + EFT, then
self-judged rounds.

    python -m selfrew.main --config=configs/self_rewarding.py --workdir=runs/self_rewarding

Held-out accuracy, seed 0, 1,000 problems: 0.351 for the base, 0.697 after SFT, then 0.902, 0.884,
0.854 (± 0.02); the judge's strict pairwise accuracy stays about 0.80. A minute and a quarter
on two cores.

Training sees no ground truth. ":paper" follows the paper's recipe as closely as this size allows:
one pair a prompt, 4 candidates, 3 votes, temperature 0.7, top_p 0.9, plain DPO, batch 16, no
rehearsal.

":llama2_70b", or another model of configs/models, is that recipe at the paper's scale. It reads
trees.jsonl, conversation trees in OpenAssistant's format, and eft.jsonl, the examples.jsonl that
configs/seed_data.py made of them. A fixed Llama-2-70B-Chat makes up new prompts like those of the
trees. ":llama3_8b+lora" trains adapters, and the model itself makes up the prompts. To see what
these need of a TPU:

    python -m selfrew.plan --config=configs/self_rewarding.py:llama2_70b --topology=v5p:4x4x4
"""

from configs import base, models


def get_config(arg: str = ''):
    name, _, extra = arg.partition('+')
    if name in models.PRESETS and extra in ('', 'lora'):
        return at_scale(name, extra == 'lora')
    if arg not in ('', 'smoke', 'paper'):
        raise ValueError(
            f'no variant {arg!r} of this config; there are: smoke, paper, and, each also with '
            f'+lora, {", ".join(models.PRESETS)}'
        )
    small = arg == 'smoke'
    prompts = 24 if small else 1000
    judging = base.judging(votes=3)
    turn = {
        'prompts': base.fresh(prompts),
        'sampler': base.sampling(4),
        'scorer': judging,
        'pairs': {'name': 'extremes', 'count': 1},
        'loss': {'name': 'dpo', 'beta': 0.1, 'nll': 5.0},
        'train': base.training(lr=3e-5, batch=32),
        'rehearsal': {'every': 1, **base.imitation_turn(base.eft(prompts), lr=2e-4)},
    }
    if arg == 'paper':
        del turn['rehearsal']
        turn['loss']['nll'] = 0.0
        turn['sampler'] |= {'temperature': 0.7, 'top_p': 0.9}
        judging['top_p'] = 0.9
        turn['train'] = base.training(lr=3e-5, batch=16, schedule='cosine', final=0.1)
    return base.get(
        rounds=2 if small else 4,
        start=base.imitation_turn(base.ift(prompts), base.eft(prompts), lr=2e-4),
        round=turn,
        evals={
            'accuracy': base.accuracy(40 if small else 1000),
            'judge': base.judge(3, 10 if small else 150),
        },
    )


def at_scale(name: str, lora: bool):
    """The paper's recipe (§3.1) with a published model.

    The paper stops early instead of counting epochs. Its dropout of 0.1 is left out.
    """
    model = model_at_scale(name, lora)
    is_large = model['shape']['hidden_size'] >= 8192
    sampling = {'temperature': 0.7, 'top_p': 0.9}
    train = {'batch': 16, 'row_length': 4096, 'warmup': 0.0, 'schedule': 'cosine'}
    lr_scale = 10.0 if lora else 1.0  # adapters start at 0 and need larger steps
    trees = {'name': 'trees', 'source': 'trees.jsonl', 'part': 'ift'}
    ift, eft = trees | {'n': 3200}, {'name': 'examples', 'source': 'eft.jsonl', 'n': 1630}
    start_train = base.training(lr=5.5e-6 * lr_scale, final=0.2, epochs=2, **train)
    judging = {'name': 'judge', 'template': 'additive', 'votes': 3, 'max_tokens': 256, **sampling}
    judge = {
        'name': 'judge',
        'prompts': trees | {'part': 'heldout'},
        'sampler': {'name': 'given'},
        'scorer': judging,
    }
    return base.get(
        rounds=3,  # M1 by imitation, then M2 and M3
        keep_states=1,
        model=model,
        # All devices. Rows are split over data × fsdp; where that is more than a batch has
        # examples, the rest is padding.
        mesh=base.mesh(fsdp=-1, tensor=4 if is_large else 1),
        start=base.imitation_turn(ift, eft, lr=0.0) | {'train': start_train},
        round={
            'prompts': new_prompts(trees, lora),
            'sampler': {'name': 'sample', 'n': 4, 'max_tokens': 1024, **sampling},
            'scorer': judging,
            'pairs': {'name': 'extremes', 'count': 1},
            'loss': {'name': 'dpo', 'beta': 0.1},
            'train': base.training(lr=1e-6 * lr_scale, final=0.1, **train),
        },
        evals={'judge': judge},
    )


def model_at_scale(name: str, lora: bool) -> dict:
    """A published model in bfloat16, with adapters of rank 16 or none."""
    changes = {
        'dtype': 'bfloat16',
        'params': 'bfloat16',
        'max_length': 4096,
        'lora': 16 if lora else 0,
    }
    if name.startswith('llama2') and not name.endswith('chat'):
        changes['chat_template'] = 'plain'
    return base.model() | models.get(name) | changes


def new_prompts(trees: dict, lora: bool) -> dict:
    """Prompts like those of the trees, made up by a fixed model, or with lora by the model itself
    as in App. A.5.
    """
    prompts = {'name': 'self_instruct', 'prompts': trees, 'n': 7000, 'batch': 512}
    if not lora:
        generator = models.get('llama2_70b_chat')['folder']
        prompts |= {'generator': generator, 'dtype': 'bfloat16', 'stored': 'bfloat16'}
    return prompts
