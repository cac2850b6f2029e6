"""Can SmolLM2 be taught to judge, by verdicts on other people's pairs?

    python -m experiments.real.judging.run --folder=runs/judging --model=MODEL --data=DATA

MODEL is a folder, hub name or GGUF file of a chat model, DATA a folder with oasst/, llmbar/,
ultrafeedback_sample/ and alpaca/. Each arm imitates verdicts "Score: 5" on better and "Score: 1" on
worse responses (EFT, arXiv 2401.10020, §2.2) of some kinds of pairs. Before and after, held-out
pairs of all kinds are judged by the expected score, where a verdict would have its score: "Score: "
is given, so that also a model is asked that would write something else. What a model writes by
itself is asked of a few. A run that is in the folder is read, not repeated. Writes results.json and
tests.json.
"""

import functools
import json
import os

from absl import flags

import selfrew
from configs import base
from experiments import study
from experiments.real import figures, settings, sources
from selfrew import export
from selfrew.engine.run_files import PUT_BACK, read_json, write_atomic
from selfrew.running.stage import json_bytes
from selfrew.shelves.evals.intervals import mean_of, wilson
from selfrew.shelves.scorers.expected_scores import expected_scores
from selfrew.tasks import templates
from selfrew.types import user_prompt

ASKED = flags.DEFINE_integer('asked', 48, 'Pairs judged, of each kind, at most.')
LONGEST = flags.DEFINE_integer(
    'longest', 600, 'Characters of a prompt and its longer response, at most.'
)

ARMS = {  # -> the kinds of pairs that it learns from
    'people': ('oasst', 'ultrafeedback'),
    'crossed': ('crossed',),
    'all': ('oasst', 'ultrafeedback', 'crossed'),
}
ON_TWO_CORES = 'crossed', 'people'
TEMPLATE = os.path.join(os.path.dirname(__file__), 'verdict.jinja')
PAIRS = 200  # trained on, of each kind, at most, the shortest; or --prompts
RATES = 5e-4, 2e-4  # of adapters, tried with --tune; the first is the one chosen
EPOCHS = 1
CONTEXT = 1024  # tokens
WRITTEN = 32  # pairs, of which the model writes its verdicts itself
LOW, HIGH = 1, 5  # scores


def tested() -> dict[str, str]:
    """Evaluation -> the file of its pairs; LLMBar's are not looked at to choose settings."""
    heldout = {name: f'{name}_{settings.heldout()}' for name in ARMS['all']}
    llmbar = {name: f'llmbar_{name}' for name in ('natural', 'adversarial')}
    return heldout if settings.TUNE.value else llmbar | heldout


def write_verdicts(folder: str) -> None:
    """Writes verdicts_oasst.jsonl and so on: judge prompts with the score that they should get."""
    for name in ARMS['all']:
        rows = []
        pairs = sorted(sources.read_rows(folder, f'{name}_train'), key=_characters)
        for pair in pairs[: settings.PROMPTS.value or PAIRS]:
            for response, score in ((pair['chosen'], HIGH), (pair['rejected'], LOW)):
                asked = templates.render(TEMPLATE, prompt=pair['prompt'], response=response)
                rows.append({'prompt': asked, 'response': f'Score: {score}'})
        sources.write_rows(folder, f'verdicts_{name}', rows)


def _characters(pair: dict) -> int:
    """Characters of a pair: what it costs to learn from it."""
    return 2 * len(pair['prompt']) + len(pair['chosen']) + len(pair['rejected'])


def _path(name: str) -> str:
    return os.path.join(settings.FOLDER.value, 'pairs', f'{name}.jsonl')


def config_of(arm: str, seed: int, rate: float) -> dict:
    """One turn of imitation, and verdicts that the model writes itself before and after."""

    judge = {
        'name': 'judge',
        'template': TEMPLATE,
        'votes': 1,
        'temperature': 0.0,
        'max_tokens': 6,
        'low': float(LOW),
        'high': float(HIGH),
        'expected': True,
    }
    demonstrations = [
        {'name': 'records', 'source': _path(f'verdicts_{name}')} for name in ARMS[arm]
    ]
    turn = base.imitation_turn(*demonstrations, lr=rate, epochs=EPOCHS)
    turn['train'] |= {'batch': 16, 'row_length': CONTEXT}
    return base.get(
        seed=seed,
        rounds=1,
        keep_states=1,
        model=base.model() | settings.model(max_length=CONTEXT, lora=16),
        round=turn,
        evals={
            'written': {
                'name': 'judge',
                'prompts': {
                    'name': 'preferences',
                    'source': _path(f'crossed_{settings.heldout()}'),
                    'n': WRITTEN,
                },
                'sampler': {'name': 'given'},
                'scorer': judge,
            }
        },
    ).to_dict()


def ordered(lm, params, pairs: list[dict]) -> dict[str, float]:
    """Index of a pair -> 1.0 if its better response has the higher expected score, 0.5 for a tie.

    The score is the mean of LOW to HIGH, weighted by their probabilities behind "Score: ".
    """
    given = f'Score: {LOW}'
    verdicts = []
    for pair in pairs:
        for name in ('chosen', 'rejected'):
            asked = templates.render(TEMPLATE, prompt=pair['prompt'], response=pair[name])
            prompt = lm.text.prompt_tokens(user_prompt('', asked))
            verdicts.append((prompt, tuple(lm.text.encode(given)), given.index(str(LOW))))
    points = [str(point) for point in range(LOW, HIGH + 1)]
    scores = expected_scores(lm, params, verdicts, points, batch=16)
    if None in scores:
        raise ValueError(f'the tokenizer cuts {given!r} in another way than a score')
    return {
        str(i): float(better > worse) + 0.5 * (better == worse)
        for i, (better, worse) in enumerate(zip(scores[::2], scores[1::2]))
    }


def judged_pairs(lm, params) -> dict[str, dict[str, float]]:
    """Kind of held-out pairs -> `ordered`."""
    pairs_of = {
        name: sources.read_rows(os.path.join(settings.FOLDER.value, 'pairs'), file)[: ASKED.value]
        for name, file in tested().items()
    }
    return {name: ordered(lm, params, pairs) for name, pairs in pairs_of.items()}


@functools.cache
def judged_untouched() -> dict[str, dict[str, float]]:
    """`judged_pairs` of the model before training, which is the same for all runs; kept in the
    folder.
    """
    path = os.path.join(settings.FOLDER.value, f'untouched_{settings.heldout()}.json')
    if not os.path.exists(path):
        made = judged_pairs(*selfrew.load(settings.MODEL.value, mesh={}, max_length=CONTEXT))
        write_atomic(path, json_bytes(made))
    return read_json(path, PUT_BACK)


def judged_trained(workdir: str) -> dict[str, dict[str, float]]:
    """`judged_pairs` of a finished run, kept in its folder."""
    path = os.path.join(workdir, 'judged.json')
    if not os.path.exists(path):
        lm, params, _ = export.load_turn(workdir)
        write_atomic(path, json_bytes(judged_pairs(lm, params)))
    return read_json(path, PUT_BACK)


def extra_figures(workdir: str, number: int) -> dict:
    """The share of pairs in the right order, by kind, with its interval; and how many of the
    verdicts that the model wrote itself could not be read.
    """
    judged = judged_trained(workdir) if number else judged_untouched()
    row = {}
    for name, right in judged.items():
        low, high = wilson(sum(right.values()), len(right))
        row |= {name: mean_of(list(right.values())), f'{name}_low': low, f'{name}_high': high}
    evals = read_json(os.path.join(workdir, 'rounds', f'{number:02d}', 'evals.json'), PUT_BACK)
    return row | {'written_unread': evals['written']['parse_failures']}


def write_tests(folder: str, arms: list[str], seeds: list[int]) -> dict:
    """Writes tests.json, and returns it: arm -> kind of pairs -> figures.paired, of the model after
    training against the one before, over all seeds.
    """

    def trained(arm: str, name: str) -> dict[str, float]:
        runs = [judged_trained(os.path.join(folder, f'{arm}-{seed}')) for seed in seeds]
        return figures.mean_by_prompt([run[name] for run in runs])

    before = judged_untouched()
    tests = {
        arm: {name: figures.paired(trained(arm, name), before[name]) for name in before}
        for arm in arms
    }
    write_atomic(os.path.join(folder, 'tests.json'), json_bytes(tests))
    return tests


def main(_):
    folder = settings.FOLDER.value
    sources.write_pairs(os.path.join(folder, 'pairs'), settings.DATA.value, LONGEST.value)
    write_verdicts(os.path.join(folder, 'pairs'))
    seeds = settings.seeds()
    trials = settings.trials(dict.fromkeys(ARMS, RATES), ON_TWO_CORES)
    runs = {
        (label, seed): config_of(name, seed, rate) for seed in seeds for label, name, rate in trials
    }
    results = study.run(folder, runs, extra_figures)
    arms = [label for label, _, _ in trials]
    print(json.dumps(write_tests(folder, arms, seeds), indent=1))
    for name in tested():
        print(f'\npairs ordered rightly: {name}\n\n{study.table(results, name)}')


if __name__ == '__main__':
    settings.run_study(main)
