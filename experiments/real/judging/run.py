"""Can SmolLM2 be taught to judge, by verdicts on other people's pairs?

    python -m experiments.real.judging.run --folder=runs/judging --model=MODEL --data=DATA

MODEL is a folder, hub name or GGUF file of a chat model, DATA a folder with oasst/, llmbar/,
ultrafeedback_sample/ and alpaca/. Each arm imitates verdicts "Score: 5" on better and "Score: 1" on
worse responses (EFT, arXiv 2401.10020, §2.2) of one kind of pairs, and judges held-out pairs of all
kinds by the expected score. A run that is in the folder is read, not repeated. Writes results.json.
"""

import os

from absl import flags

from configs import base
from experiments import study
from experiments.real import settings, sources
from selfrew.tasks import templates

ASKED = flags.DEFINE_integer('asked', 64, 'Pairs judged, of each kind, at most.')
LONGEST = flags.DEFINE_integer(
    'longest', 600, 'Characters of a prompt and its longer response, at most.'
)

ARMS = {  # -> the kinds of pairs that it learns from
    'people': ('oasst', 'ultrafeedback'),
    'crossed': ('crossed',),
    'all': ('oasst', 'ultrafeedback', 'crossed'),
}
TEMPLATE = os.path.join(os.path.dirname(__file__), 'verdict.jinja')
PAIRS = 64  # trained on, of each kind, at most; or --prompts
RATE = 1e-5
CONTEXT = 1024  # tokens


def tested() -> dict[str, str]:
    """Evaluation -> the file of its pairs; LLMBar's are not looked at to choose settings."""
    heldout = {name: f'{name}_{settings.heldout()}' for name in ARMS['all']}
    llmbar = {name: f'llmbar_{name}' for name in ('natural', 'adversarial')}
    return heldout if settings.TUNE.value else llmbar | heldout


def write_verdicts(folder: str) -> None:
    """Writes verdicts_oasst.jsonl and so on: judge prompts with the score that they should get."""
    for name in ARMS['all']:
        rows = []
        for pair in sources.read_rows(folder, f'{name}_train')[: settings.PROMPTS.value or PAIRS]:
            for response, score in ((pair['chosen'], 5), (pair['rejected'], 1)):
                asked = templates.render(TEMPLATE, prompt=pair['prompt'], response=response)
                rows.append({'prompt': asked, 'response': f'Score: {score}'})
        sources.write_rows(folder, f'verdicts_{name}', rows)


def config_of(arm: str, seed: int) -> dict:
    """One turn of imitation, and the judge on all kinds of pairs before and after."""

    def path(name: str) -> str:
        return os.path.join(settings.FOLDER.value, 'pairs', f'{name}.jsonl')

    judge = {
        'name': 'judge',
        'template': TEMPLATE,
        'votes': 1,
        'temperature': 0.0,
        'max_tokens': 6,
        'low': 1.0,
        'high': 5.0,
        'expected': True,
    }
    turn = base.imitation_turn(
        *({'name': 'records', 'source': path(f'verdicts_{name}')} for name in ARMS[arm]), lr=RATE
    )
    turn['train'] |= {'batch': 16, 'row_length': CONTEXT}
    return base.get(
        seed=seed,
        rounds=1,
        keep_states=1,
        model=base.model() | settings.model(max_length=CONTEXT),
        round=turn,
        evals={
            name: {
                'name': 'judge',
                'prompts': {'name': 'preferences', 'source': path(file), 'n': ASKED.value},
                'sampler': {'name': 'given'},
                'scorer': judge,
            }
            for name, file in tested().items()
        },
    ).to_dict()


def main(_):
    folder = settings.FOLDER.value
    sources.write_pairs(os.path.join(folder, 'pairs'), settings.DATA.value, LONGEST.value)
    write_verdicts(os.path.join(folder, 'pairs'))
    runs = {
        (arm, seed): config_of(arm, seed)
        for seed in settings.seeds()
        for arm in settings.ARMS.value or ARMS
    }
    results = study.run(folder, runs)
    for name in tested():
        print(f'\npairs ordered rightly: {name}\n\n{study.table(results, name)}')


if __name__ == '__main__':
    settings.run_study(main)
