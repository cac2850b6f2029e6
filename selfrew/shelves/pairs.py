"""From scores to examples. The shelf's contract: (judgement, rng, *, …) -> iterator of Example.

The responses of an example are best first. Responses without a verdict (nan) are left out, except
by `group`. The loop counts judgements that yield no example.
"""

import dataclasses
import math

from selfrew.tasks import templates, words
from selfrew.types import Example, Response, user_prompt


def _scored(judgement) -> list[tuple[float, Response]]:
    """The (score, response) pairs that have a verdict and are not empty."""
    scored = zip(judgement.scores, judgement.rollout.responses)
    return [(s, r) for s, r in scored if not math.isnan(s) and (r.text or r.tokens)]


def _shuffled(items: list, rng) -> list:
    return [items[i] for i in rng.permutation(len(items))]


def singles(
    judgement,
    rng,
    *,
    at_least: float | None = None,
    cap: int | None = None,
    label_at: float | None = None,
):
    """Each response as an example of its own, for SFT and unpaired losses.

    Args:
      at_least: only responses with this score or a higher one.
      cap: at most so many responses, drawn at random.
      label_at: labels those with this score or a higher one desirable, the others undesirable.
        None: no labels.
    """
    scored = [(s, r) for s, r in _scored(judgement) if at_least is None or s >= at_least]
    if cap is not None:
        scored = _shuffled(scored, rng)[:cap]
    for score, response in scored:
        labels = () if label_at is None else (float(score >= label_at),)
        yield Example(judgement.rollout.prompt, (response,), (score,), labels=labels)


def group(judgement, rng, *, all_ties: bool = False, log_ranks: bool = False):
    """All responses to a prompt as one example, best first, for losses of groups (rloo, grpo) and
    of values. Responses without a verdict come last, and the losses leave them out.

    Yields nothing where no response, or only one, has a verdict.

    Args:
      all_ties: also yields groups whose scores are all equal; of these rloo and grpo learn no more
        than to stay near the reference. Losses of values want them.
      log_ranks: a score becomes log F, F the share of the responses with a verdict that are no
        better. Of it best-of-N is the optimum where a nat of KL costs 1/(N − 1) (BOND, arXiv
        2407.14622).
    """
    del rng
    scored = list(zip(judgement.scores, judgement.rollout.responses))
    known = [score for score, _ in scored if not math.isnan(score)]
    if len(known) < 2 or (not all_ties and len(set(known)) == 1):
        return
    scored.sort(key=lambda pair: math.inf if math.isnan(pair[0]) else -pair[0])
    responses, scores = [response for _, response in scored], [score for score, _ in scored]
    if log_ranks:
        shares = [sum(other <= score for other in known) / len(known) for score in scores]
        scores = [math.nan if math.isnan(s) else math.log(f) for s, f in zip(scores, shares)]
    yield Example(judgement.rollout.prompt, tuple(responses), tuple(scores))


def extremes(
    judgement,
    rng,
    *,
    count: int = 1,
    keep_last: bool = False,
    rho: float | None = None,
    longest: int | None = None,
    at_least: float | None = None,
    weigh: bool = False,
):
    """Pairs of the highest and the lowest scored response (arXiv 2401.10020, §2.2).

    Yields nothing where the two scores are equal.

    Args:
      count: at most this many pairs, no two with the same winner or the same loser. Ties for best
        and worst score are broken at random.
      keep_last: adds the rollout's last response as a third one, whatever its score (SELM's
        explored response, see samplers.with_greedy).
      rho: length control of Meta-Rewarding (arXiv 2407.19594, §2.1), from 0 to 0.5. Winners are
        taken from the top share `rho` of the range of scores, shortest first; losers from the
        bottom share, longest first. None: no length control.
      longest: the most characters of a winner.
      at_least: the lowest score of a winner (ScPO's τ, arXiv 2411.04109, §2).
      weigh: the weight of an example is the difference of its scores (ScPO's vote margin), not 1.
    Raises ValueError for another rho.
    """
    check_rho(rho)
    scored = _scored(judgement)
    best = max((score for score, _ in scored), default=0.0)
    worst = min((score for score, _ in scored), default=0.0)
    if best == worst:
        return
    near = (rho or 0.0) * (best - worst)
    top = _shuffled([(s, r) for s, r in scored if s >= best - near], rng)
    bottom = _shuffled([(s, r) for s, r in scored if s <= worst + near], rng)
    if rho is not None:
        top.sort(key=lambda pair: len(pair[1].text))
        bottom.sort(key=lambda pair: -len(pair[1].text))
    top = [(s, r) for s, r in top if longest is None or len(r.text) <= longest]
    top = [(s, r) for s, r in top if at_least is None or s >= at_least]
    # The same text can get two scores; with rho=0.5, winner and loser can have the same score.
    pairs = [(*first, *second) for first, second in zip(top, bottom)]
    pairs = [pair for pair in pairs if pair[0] > pair[2] and pair[1].text != pair[3].text]
    for high, winner, low, loser in pairs[:count]:
        responses, scores = (winner, loser), (high, low)
        if keep_last:
            responses += judgement.rollout.responses[-1:]
            scores += judgement.scores[-1:]
        weight = high - low if weigh else 1.0
        yield Example(judgement.rollout.prompt, responses, scores, weight)


def check_rho(rho: float | None) -> None:
    """Raises ValueError where rho is neither None nor from 0 to 0.5."""
    if rho is not None and not 0 <= rho <= 0.5:
        raise ValueError(f'{rho}: want 0 to 0.5, or None')


@templates.shows('prompt', 'limit', prompt='p', limit=9)
def length_limited(
    judgement, rng, *, pairs, gap: int, template: str = 'length_limit', plain: bool = True
):
    """The examples of another pair rule, and again with limits of words in their prompts (LIFT,
    arXiv 2406.17744, §4). They were scored by the prompts without a limit.

    Of a pair whose lengths differ by at least `gap` words: once with a limit of `gap` words more
    than the longer response has, which both keep; once with one between the two lengths, drawn
    evenly. There the longer response breaks the limit: if it was the winner, it becomes the loser.
    Of a single response: once with a limit of `gap` words more than it has. Responses are left as
    they are, and further ones than a pair's follow it.

    Args:
      pairs: an entry of this shelf.
      gap: in words, at least 2 (the paper's is 10); how words are counted, see words.count_words.
      template: a jinja file with {{ prompt }} and {{ limit }}, or the name of a shipped one.
      plain: also yields the examples without a limit (the paper's D ∪ D′).
    """
    for example in pairs(judgement, rng):
        if plain:
            yield example
        counts = [words.count_words(response.text) for response in example.responses[:2]]
        longer, shorter = max(counts), min(counts)
        if len(counts) > 1 and longer - shorter < gap:
            continue
        yield _with_limit(example, longer + gap, template)
        if len(counts) > 1:
            limit = int(rng.integers(shorter + 1, longer))
            is_flipped = counts[0] > counts[1]
            yield _with_limit(_flipped(example) if is_flipped else example, limit, template)


def _with_limit(example: Example, limit: int, template: str) -> Example:
    """The example with a limit in its prompt. Its responses were not sampled from that prompt, and
    lose the log-probabilities they were sampled with.
    """
    responses = tuple(dataclasses.replace(r, logp=None) for r in example.responses)
    prompt = words.limited(example.prompt, limit, template)
    return dataclasses.replace(example, prompt=prompt, responses=responses)


def _flipped(example: Example) -> Example:
    """The example with winner and loser swapped, marked in the prompt's meta."""

    def swap(items: tuple) -> tuple:
        return (items[1], items[0], *items[2:]) if items else items

    return dataclasses.replace(
        example,
        prompt=dataclasses.replace(example.prompt, meta=example.prompt.meta | {'flipped': True}),
        responses=swap(example.responses),
        scores=swap(example.scores),
        labels=swap(example.labels),
    )


@templates.shows('response', prompt='p', response='r')
def agreeing(judgement, rng, *, template: str, count: int = 1):
    """A judge's verdicts that agree with people's grades (EFT, arXiv 2401.10020, §3.1).

    An example is a judge prompt with its verdict, for the judge to imitate. The first votes on all
    responses are one ranking, the second votes another, and so on. A ranking agrees if it orders
    every two responses of different grade as the grades do.

    Args:
      template: the template that the scorer judged with.
      count: rankings of a prompt that are kept, at most.
    Raises ValueError where a prompt's grades and responses differ in number.
    """
    del rng
    prompt, responses = judgement.rollout.prompt, judgement.rollout.responses
    grades = prompt.meta.get('grades', ())
    if len(grades) != len(responses):
        raise ValueError(
            f'prompt {prompt.id!r} has {len(grades)} grades and {len(responses)} responses; '
            f'want one grade for each response'
        )
    ordered = [(i, j) for i, a in enumerate(grades) for j, b in enumerate(grades) if a > b]
    kept = 0
    for vote, scores in enumerate(zip(*judgement.votes)):
        if kept == count:
            return
        if any(map(math.isnan, scores)) or not all(scores[i] > scores[j] for i, j in ordered):
            continue
        kept += 1
        for i, (response, score) in enumerate(zip(responses, scores)):
            text = templates.render(template, prompt=prompt.text, response=response.text)
            judge_prompt = user_prompt(f'{prompt.id}/{i}/{vote}', text)
            yield Example(judge_prompt, (Response(judgement.verdicts[i][vote]),), (score,))


def right_vs_wrong(judgement, rng, *, count: int = 10, threshold: float = 0.5, gold: bool = False):
    """Pairs of a right and a wrong response (IRPO, arXiv 2404.19733, §2).

    Both lists are walked together; the shorter one starts again at its end.

    Args:
      count: K, pairs of a prompt, at most. The walk ends earlier where it would repeat a pair.
      threshold: a score of at least this is right.
      gold: adds the responses of the data (`meta['responses']`, such as GSM8K's solutions) to the
        right ones, with score 1.
    """
    del rng
    prompt, scored = judgement.rollout.prompt, _scored(judgement)
    right = [(s, r) for s, r in scored if s >= threshold]
    wrong = [(s, r) for s, r in scored if s < threshold]
    if gold:
        right += [(1.0, Response(text)) for text in prompt.meta.get('responses', ())]
    if not right or not wrong:
        return
    for i in range(min(count, math.lcm(len(right), len(wrong)))):
        (high, winner), (low, loser) = right[i % len(right)], wrong[i % len(wrong)]
        yield Example(prompt, (winner, loser), (high, low))
