"""What a turn reads of the turns before it, and what it leaves where its training failed."""

import dataclasses

from selfrew.engine.finite import NotFinite
from selfrew.running.stage import Folder
from selfrew.types import Example


def earlier_examples(workdir: str, turn) -> list[Example]:
    """The examples of the earlier rounds that a turn keeps, oldest first, as their files have them.

    Their responses are those of earlier parameters: they keep their tokens, and lose the
    log-probabilities that they were sampled with, which this turn's are not to agree with.
    """
    _, _, kind = turn.name.partition(f'{turn.round:02d}')  # '', '-rehearsal', '/verdicts'
    rounds = list(range(turn.first_round, turn.round))
    examples = []
    for number in rounds if turn.earlier < 0 else rounds[len(rounds) - turn.earlier :]:
        folder = Folder(workdir, f'{number:02d}{kind}')
        if folder.has('examples'):
            examples += folder.read_nouns('examples', Example)
    return [
        dataclasses.replace(
            example, responses=tuple(dataclasses.replace(r, logp=None) for r in example.responses)
        )
        for example in examples
    ]


def write_not_finite(turn, folder, first_step: int, examples, problem: NotFinite) -> str:
    """Writes the batch whose training was not finite; returns what to tell the user.

    first_step: the number of the turn's first update in the run.
    """
    batch = [examples[i] for i in problem.indices]
    ids = [example.prompt.id for example in batch]
    update = None if problem.step is None else first_step + problem.step
    about = {'turn': turn.name, 'step': update, 'not_finite': problem.what, 'ids': ids}
    folder.write_json('not_finite.json', about | {'metrics': problem.metrics})
    path = folder.write_lines('not_finite.jsonl', batch)
    where = (
        'before the first update' if update is None else f'update {problem.step} (step {update})'
    )
    numbers = ', '.join(f'{name} {value:.4g}' for name, value in problem.metrics.items())
    return (
        f'round {turn.round}, turn {turn.name}, {where}: not finite: {", ".join(problem.what)}'
        f'{f" ({numbers})" if numbers else ""}; the examples {", ".join(map(repr, ids[:8]))}'
        f'{", …" if len(ids) > 8 else ""} are in {path}. Nothing of this training was saved. '
        f'A smaller train.lr, a warm-up or train.optimizer.clip may help.'
    )
