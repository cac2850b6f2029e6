"""LIFT on a real model and pairs of your own: does it keep limits of words?

    python -m experiments.lift.real --folder=runs/lift_real --model=path/or/hub-name \\
        --pairs=pairs.jsonl --heldout=heldout.jsonl

Both files hold rows of prompt, chosen, rejected (prompts.preferences lists the forms). One round of
DPO from the model as it is, on the pairs (dpo) or on the pairs and their limited copies (lift), and
the share of greedy answers to held-out prompts that break a limit, before and after. No judge is
asked, so that wins are not read. Writes results.json.
"""

from absl import app, flags

from configs import base, lift
from experiments import study

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
MODEL = flags.DEFINE_string('model', None, 'A folder, hub name or GGUF file.', required=True)
PAIRS = flags.DEFINE_string('pairs', None, 'Pairs to train on.', required=True)
HELDOUT = flags.DEFINE_string('heldout', None, 'Pairs whose prompts are asked.', required=True)
ROWS = flags.DEFINE_integer('rows', 600, 'How many pairs are trained on.')
ASKED = flags.DEFINE_integer('asked', 96, 'How many prompts are asked, at most.')
TOKENS = flags.DEFINE_integer('tokens', 320, 'The longest answer.')
RATE = flags.DEFINE_float('rate', 1e-5, 'Learning rate.')
STEPS = flags.DEFINE_integer(
    'steps', None, 'Updates of each arm. Without it, one pass over its own.'
)
LORA = flags.DEFINE_integer('lora', 0, 'The rank of adapters; 0 trains all parameters.')
SEEDS = flags.DEFINE_list('seeds', ['0'], 'One run each.')
ARMS = flags.DEFINE_list('arms', ['lift', 'dpo'], 'Which to run.')
DTYPE = flags.DEFINE_string('dtype', 'float32', 'Of the compute.')

SCALES = 1.0, 0.5, 0.2
GAP = 10  # words, as in the paper


def config_of(arm: str, seed: int) -> dict:
    """One round of DPO on pairs of a file."""
    pairs = {'name': 'extremes', 'count': 1}
    if arm == 'lift':
        pairs = lift.limited(pairs, GAP)
    elif arm != 'dpo':
        raise app.UsageError(f'no arm {arm!r}; there are: lift, dpo')
    heldout = {'name': 'preferences', 'source': HELDOUT.value, 'n': ASKED.value}
    sampler = {'name': 'sample', 'n': 1, 'temperature': 0.0, 'max_tokens': TOKENS.value}
    asking = {'prompts': heldout, 'sampler': sampler, 'scorer': {'name': 'length'}}
    model = base.model() | {'folder': MODEL.value, 'max_length': 2048, 'dtype': DTYPE.value}
    model['lora'] = LORA.value
    return base.get(
        seed=seed,
        rounds=1,
        keep_states=1,
        model=model,
        round={
            'prompts': {'name': 'preferences', 'source': PAIRS.value, 'n': ROWS.value},
            'sampler': {'name': 'given'},
            'scorer': {'name': 'given'},
            'pairs': pairs,
            'loss': {'name': 'dpo', 'beta': 0.1},
            'train': base.training(
                lr=RATE.value,
                batch=32,
                row_length=1024,
                warmup=0.1,
                epochs=STEPS.value or 1,  # a pass has an update at least
                max_steps=STEPS.value,
            ),
        },
        evals={
            'limits': {'name': 'length_limits', **asking, 'scales': SCALES, 'least': 20},
            'plain': {'name': 'mean_score', **asking},  # tokens of answers without a limit
        },
    ).to_dict()


def main(_):
    runs = {
        (arm, int(seed)): config_of(arm, int(seed)) for seed in SEEDS.value for arm in ARMS.value
    }
    results = study.run(FOLDER.value, runs)
    for scale in SCALES:
        print(
            f'\nviolations at {scale:g}\n\n{study.table(results, f"limits_violations/{scale:g}")}'
        )
    print(f'\ntokens without a limit\n\n{study.table(results, "plain")}')


if __name__ == '__main__':
    app.run(main)
