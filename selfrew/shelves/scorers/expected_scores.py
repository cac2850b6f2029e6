"""Expected scores: the mean score under the judge's own distribution instead of the drawn one."""

import numpy as np

from selfrew.engine import packing, reference
from selfrew.mesh import buckets


def expected_scores(
    lm, params, verdicts, points: list[str], *, batch: int = 64
) -> list[float | None]:
    """The mean over `points`, each weighted by its probability in place of a verdict's own score.

    The points are branches of one document, so that one pass gives the log-probs of all of them.

    Args:
      verdicts: (tokens of the judge prompt, tokens of the verdict, where in its text the score
        begins) of each; see tasks.verdicts.read_score.
      points: the scores that can stand there, as text.
      batch: documents in a pass, at most.
    Returns a mean for each verdict; None where the tokenizer cuts the drawn score in another way
    than any of the points.
    """
    docs = []
    for index, (prompt_tokens, tokens, start) in enumerate(verdicts):
        doc = _branch_at_score(lm.text, index, tuple(prompt_tokens), tokens, start, points)
        if doc is not None:
            docs.append(doc)
    means: list[float | None] = [None] * len(verdicts)
    if not docs:
        return means
    longest = max(len(doc.prompt) + sum(map(len, doc.responses)) for doc in docs)
    row_length = buckets.round_up(longest, 64)
    batches = packing.batches(docs, batch=min(batch, len(docs)), row_length=row_length)
    logp_BN = reference.reference_logp(lm, params, batches).column
    values_N = [float(point) for point in points]
    for doc in docs:
        logp_N = logp_BN[doc.index]
        weight_N = np.exp(logp_N - logp_N.max())
        means[doc.index] = float(np.dot(weight_N, values_N) / weight_N.sum())
    return means


def _branch_at_score(
    text, index: int, prompt: tuple, verdict: tuple, score_start: int, points
) -> packing.Doc | None:
    """A document that branches into the points where the verdict has its score, or None."""
    written = text.decode(verdict)
    # The token in which the score begins.
    first = next(n for n in range(len(verdict)) if len(text.decode(verdict[: n + 1])) > score_start)
    before = written[len(text.decode(verdict[:first])) : score_start]
    branches = tuple(tuple(text.encode(before + point)) for point in points)
    if not any(verdict[first : first + len(branch)] == branch for branch in branches):
        return None
    return packing.Doc(index, prompt + verdict[:first], branches, 1.0)
