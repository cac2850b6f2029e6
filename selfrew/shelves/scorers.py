"""How responses are scored. Layer 5. The shelf's contract: (lm, params, rollouts, key, *, …) ->
[Judgement].

A higher score is better; nan is 'no verdict'. One judgement for each rollout, in order.
"""

import functools
import math

import numpy as np

from selfrew import tasks
from selfrew.engine import generate, packing, reference
from selfrew.mesh import buckets, keys
from selfrew.models import hf, language_model
from selfrew.tasks import answers, templates
from selfrew.types import Judgement, ask


def _each(rollouts, score) -> list[Judgement]:
    """Judgements of score(prompt, response) -> float."""
    return [Judgement(r, tuple(float(score(r.prompt, a)) for a in r.responses)) for r in rollouts]


def given(lm, params, rollouts, key) -> list[Judgement]:
    """The grades that came with the data (`meta['grades']`); without them 1 for each:
    demonstrations are trusted.

    Raises ValueError where a prompt has not as many grades as responses.
    """
    del lm, params, key
    out = []
    for r in rollouts:
        grades = r.prompt.meta.get('grades', [1.0] * len(r.responses))
        if len(grades) != len(r.responses):
            raise ValueError(
                f'prompt {r.prompt.id!r} has {len(grades)} grades and {len(r.responses)} responses'
            )
        out.append(Judgement(r, tuple(map(float, grades))))
    return out


def exact_answer(lm, params, rollouts, key) -> list[Judgement]:
    """1 where a response is right, 0 where it is wrong, nan where the prompt has no answer.

    A built-in task judges its own responses. Otherwise the final answer (after the last 'Final
    answer:' or '####', or in the last \\boxed{}) is compared with the prompt's, as numbers where
    both are, else as text without case.
    """
    del lm, params, key
    return _each(rollouts, lambda prompt, response: correctness(prompt, response.text))


def correctness(prompt, response: str) -> float:
    """1, 0 or nan: see `exact_answer`."""
    if prompt.answer is None:
        return math.nan
    if 'task' in prompt.meta:
        return float(tasks.is_right(prompt, response))
    return float(
        answers.same(answers.final_answer(response), answers.reference_answer(str(prompt.answer)))
    )


def consistency(lm, params, rollouts, key) -> list[Judgement]:
    """The share of a prompt's responses that end with the same final answer (ScPO's votes, arXiv
    2411.04109, §2).

    No truth is asked. A response without a final answer has no vote at all, not even its own: 0. A
    verdict (see prompts.judged) ends with its score; one that cannot be read has no vote, and
    scores nan.
    """
    del lm, params, key
    return [Judgement(r, tuple(_shares(r))) for r in rollouts]


def _shares(rollout) -> list[float]:
    if 'judged' in rollout.prompt.meta:
        said = answers.scores(rollout)
        return [math.nan if math.isnan(s) else said.count(s) / len(said) for s in said]
    found = [answers.key(answers.final_answer(r.text)) for r in rollout.responses]
    return [0.0 if a is None else found.count(a) / len(found) for a in found]


def length(lm, params, rollouts, key, *, target: int | None = None) -> list[Judgement]:
    """The response's length in tokens; with a `target`, minus the distance to it."""
    del params, key

    def score(prompt, response):
        tokens = len(response.tokens) or len(lm.text.encode(response.text))
        return tokens if target is None else -abs(tokens - target)

    return _each(rollouts, score)


def chance(lm, params, rollouts, key, *, levels: int = 6) -> list[Judgement]:
    """Scores from 0 to levels − 1, drawn: the control that says what a judge is worth."""
    del lm, params
    draw = keys.numpy_rng(key)
    return [
        Judgement(r, tuple(map(float, draw.integers(levels, size=len(r.responses)))))
        for r in rollouts
    ]


def composite(lm, params, rollouts, key, *, scorers: tuple, weights: tuple) -> list[Judgement]:
    """The weighted sum of other scorers' scores; nan where one of them has no verdict. Keeps the
    first one's verdicts.

    Raises ValueError where there are not as many weights as scorers.
    """
    if len(scorers) != len(weights) or not scorers:
        raise ValueError(
            f'{len(scorers)} scorers and {len(weights)} weights: want as many, and at least one'
        )
    columns = [scorer(lm, params, rollouts, key) for scorer in scorers]
    return [
        Judgement(
            js[0].rollout,
            tuple(np.dot(weights, [j.scores for j in js]).tolist()),
            js[0].verdicts,
            js[0].votes,
        )
        for js in zip(*columns)
    ]


def check_checkpoint(checkpoint: str) -> None:
    """FileNotFoundError or ValueError where there is no reward model in that folder or hub
    repository.
    """
    folder = language_model.resolve_folder(checkpoint)
    if not hf.read_config(folder).scalar_head:
        raise ValueError(
            f'{checkpoint} has no scalar head: want a ...ForSequenceClassification of 1 label'
        )


@functools.lru_cache(maxsize=2)
def _reward(mesh, checkpoint, dtype, params, max_length):
    return language_model.load(
        folder=checkpoint, **mesh.shape, dtype=dtype, params=params, max_length=max_length
    )


def reward_model(
    lm,
    params,
    rollouts,
    key,
    *,
    checkpoint: str,
    dtype: str = 'float32',
    stored: str = 'float32',
    max_length: int | None = None,
    rows: int = 64,
) -> list[Judgement]:
    """The reward that another model gives: its scalar head at the last token of the whole
    conversation.

    Args:
      checkpoint: folder or hub name of a ...ForSequenceClassification with one label; its tokenizer
        and chat template format the conversation. It lies on the same mesh, and stays there for the
        rounds to come.
      dtype, stored, max_length: of its compute and its parameters, and its longest context: see
        language_model.load.
      rows: conversations read together.
    A conversation longer than its context scores nan.
    """
    del params, key
    judge, weights = _reward(lm.mesh, checkpoint, dtype, stored, max_length)
    asked = [judge.text.conversation_tokens(r.prompt, a.text) for r in rollouts for a in r.responses]
    fitting = [i for i, tokens in enumerate(asked) if len(tokens) <= judge.config.max_length]
    found = dict(
        zip(fitting, generate.values(judge, weights, [asked[i] for i in fitting], rows=rows))
    )
    scores = iter([found.get(i, math.nan) for i in range(len(asked))])
    return [Judgement(r, tuple(next(scores) for _ in r.responses)) for r in rollouts]


# --- LLM as a judge ---------------------------------------------------------------------------------------------------


def judge(
    lm,
    params,
    rollouts,
    key,
    *,
    template: str = 'additive',
    votes: int = 3,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 0.9,
    min_p: float = 0.0,
    max_tokens: int = 256,
    low: float | None = None,
    high: float | None = None,
    expected: bool = False,
    slots: int | None = None,
) -> list[Judgement]:
    """The model judges responses with its own parameters: the mean of the valid votes (arXiv
    2401.10020, §2.2).

    Args:
      template: a jinja file with {{ prompt }} and {{ response }}, or one that ships; it asks for a
        last 'Score: N'.
      votes: verdicts sampled for each response. temperature, top_k, top_p, min_p, max_tokens: of a
        verdict.
      low, high: the range of a score; outside of it there is no verdict. None: what the template
        sets, else 0 and 5.
      expected: a vote is the mean of all whole scores in the range, each as likely as the model
        holds it where the verdict has its own, instead of the one that was drawn there.
      slots: see samplers.sample.
    A response whose judge prompt does not fit into the context, or none of whose votes can be read,
    scores nan.
    Raises FileNotFoundError without the template, ValueError for an option out of range.
    """
    low, high = templates.score_range(template, low, high)
    fields = [{'prompt': r.prompt.text, 'response': a.text} for r in rollouts for a in r.responses]
    names = [f'{r.prompt.id}/{i}' for r in rollouts for i in range(len(r.responses))]
    asked, verdicts = _verdicts(
        lm,
        params,
        key,
        template,
        fields,
        names,
        votes,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        max_tokens=max_tokens,
        slots=slots,
    )
    cast = [[answers.score(v, low=low, high=high) for v in mine] for mine in verdicts]
    if expected:
        read = [
            (i, k)
            for i, mine in enumerate(cast)
            for k, vote in enumerate(mine)
            if not math.isnan(vote)
        ]
        points = [str(p) for p in range(math.ceil(low), math.floor(high) + 1)]
        means = _expected(lm, params, [(asked[i], verdicts[i][k].tokens) for i, k in read], points)
        for (i, k), mean in zip(read, means):
            cast[i][k] = cast[i][k] if mean is None else mean
    out, at = [], 0
    for r in rollouts:
        mine = slice(at, at := at + len(r.responses))
        words = tuple(tuple(v.text for v in vs) for vs in verdicts[mine])
        out.append(
            Judgement(
                r, tuple(map(_mean_of_valid, cast[mine])), words, tuple(map(tuple, cast[mine]))
            )
        )
    return out


def compare(
    lm,
    params,
    rollouts,
    key,
    *,
    template: str = 'pairwise',
    votes: int = 1,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 0.9,
    min_p: float = 0.0,
    max_tokens: int = 256,
    slots: int | None = None,
) -> list[Judgement]:
    """The model sets each response against each other one, in both orders: the share of these that
    it wins.

    A vote is two verdicts, one for each order; where they name different winners, or a tie, it is
    half a win for both (arXiv 2401.10020, §3.1.3, has its head-to-heads judged so). Where one of
    them cannot be read it is no vote.

    Args:
      template: a jinja file with {{ prompt }}, {{ first }} and {{ second }}, or one that ships; it
        asks for a last 'Winner: A', 'B' or 'tie'; '[[A]]', '[[B]]' and '[[C]]' are read too.
      votes: of each pair. The rest: see `judge`. A judgement's verdicts are those in which its
        response stood first.
    Raises FileNotFoundError without the template, ValueError for an option out of range.
    """
    meets = [
        (r, i, j)
        for r in rollouts
        for i in range(len(r.responses))
        for j in range(len(r.responses))
        if i != j
    ]
    fields = [
        {'prompt': r.prompt.text, 'first': r.responses[i].text, 'second': r.responses[j].text}
        for r, i, j in meets
    ]
    _, verdicts = _verdicts(
        lm,
        params,
        key,
        template,
        fields,
        [f'{r.prompt.id}/{i}/{j}' for r, i, j in meets],
        votes,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        max_tokens=max_tokens,
        slots=slots,
    )
    said = {(r.prompt.id, i, j): mine for (r, i, j), mine in zip(meets, verdicts)}
    out = []
    for r in rollouts:
        n, words, cast = len(r.responses), [], []
        for i in range(n):
            others = [j for j in range(n) if j != i]
            words.append(tuple(v.text for j in others for v in said[r.prompt.id, i, j]))
            both = [
                pair
                for j in others
                for pair in zip(said[r.prompt.id, i, j], said[r.prompt.id, j, i])
            ]
            cast.append(
                tuple(_won(answers.winner(one), 1.0 - answers.winner(other)) for one, other in both)
            )
        out.append(Judgement(r, tuple(map(_mean_of_valid, cast)), tuple(words), tuple(cast)))
    return out


def _won(first: float, second: float) -> float:
    """Half a win where the two orders do not agree; nan where one of them is."""
    return first if first == second else math.nan if math.isnan(first + second) else 0.5


def _verdicts(lm, params, key, template, fields, names, votes: int, **options):
    """(The prompt's tokens, the verdicts written) for each dict of a template's fields; none where
    it does not fit.
    """
    if votes < 1:
        raise ValueError(f'votes={votes}: want at least 1')
    asked = [lm.text.prompt_tokens(ask('', templates.render(template, **each))) for each in fields]
    fitting = [
        i
        for i, tokens in enumerate(asked)
        if len(tokens) + options['max_tokens'] <= lm.config.max_length
    ]
    requests = [(i, vote) for i in fitting for vote in range(votes)]
    keys = generate.request_keys(
        key, [f'judge/{names[i]}' for i, _ in requests], [vote for _, vote in requests]
    )
    written = generate.generate(
        lm, params, [asked[i] for i, _ in requests], keys, title='judge', **options
    )
    verdicts = [[] for _ in asked]
    for (i, _), verdict in zip(requests, written):
        verdicts[i].append(verdict)
    return asked, verdicts


def _expected(lm, params, written, points: list[str], batch: int = 64) -> list[float | None]:
    """The mean score where each of (a judge prompt's tokens, its verdict's) has its own; None where
    that cannot be told.

    The points that could stand there are branches of one document: one pass gives what all of them
    have.
    """
    docs = []
    for i, (asked, tokens) in enumerate(written):
        said = lm.text.decode(tokens)
        at = list(answers.SCORE.finditer(said))[-1].end()
        n = next(
            n for n in range(len(tokens)) if len(lm.text.decode(tokens[: n + 1])) > at
        )  # the token it begins in
        before = said[len(lm.text.decode(tokens[:n])) : at]
        others = [tuple(lm.text.encode(before + p)) for p in points]
        if any(
            tokens[n : n + len(o)] == o for o in others
        ):  # else the tokenizer cuts it in another way
            docs.append(packing.Doc(i, tuple(asked) + tokens[:n], tuple(others), 1.0))
    out = [None] * len(written)
    if docs:
        longest = max(len(d.prompt) + sum(map(len, d.responses)) for d in docs)
        batches = packing.batches(
            docs, batch=min(batch, len(docs)), row_length=buckets.round_up(longest, 64)
        )
        table = reference.reference_logp(lm, params, batches)
        for doc in docs:
            weight = np.exp(table[doc.index] - table[doc.index].max())
            out[doc.index] = float(np.dot(weight, [float(p) for p in points]) / weight.sum())
    return out


def _mean_of_valid(votes) -> float:
    valid = [v for v in votes if not math.isnan(v)]
    return sum(valid) / len(valid) if valid else math.nan
