"""Examples to packed batches: the only bridge from text to arrays. Layer 3."""

from typing import NamedTuple

import numpy as np

from selfrew.mesh import buckets, processes, sharding
from selfrew.types import Batch, Example

ROWS = (
    'tokens',
    'position',
    'doc',
    'branch',
    'target',
    'source',
    'mask',
)  # what of a batch the mesh splits


class Doc(NamedTuple):
    """A tokenised example."""

    index: int  # of the example in the round
    prompt: tuple
    responses: tuple  # (N,) of tuples of tokens
    weight: float


def tokenise(
    text, examples: list[Example], *, row_length: int, positions: int | None = None
) -> tuple[list[Doc], int]:
    """The examples that fit, and how many did not fit or had an empty response.

    One fits whose prompt with all its responses fits into a row, and with each of them into the
    model's positions (None: any).

    A sampled response keeps the tokens that were sampled; one given as text is tokenised, with the
    end token only where it ended by itself. Nothing is cut: half a response would teach a wrong
    end.
    """
    docs = []
    for index, example in enumerate(examples):
        responses = tuple(
            tuple(r.tokens or text.response_tokens(r.text, r.finish)) for r in example.responses
        )
        doc = Doc(index, tuple(text.prompt_tokens(example.prompt)), responses, example.weight)
        longest = len(doc.prompt) + max(map(len, responses))
        if all(responses) and _length(doc) <= row_length and longest <= (positions or longest):
            docs.append(doc)
    return docs, len(examples) - len(docs)


def _length(doc: Doc) -> int:
    return len(doc.prompt) + _chosen(doc)


def _best_fit(docs: list[Doc], row_length: int) -> list[list[int]]:
    """Which docs share a row: each, longest first, goes into the fullest row that has room.

    Never more than 11/9 of the fewest possible rows and a few (Johnson 1974).
    """
    rows, room = [], []
    for i in sorted(range(len(docs)), key=lambda i: -_length(docs[i])):
        need = _length(docs[i])
        row = min(
            (r for r, left in enumerate(room) if left >= need),
            key=room.__getitem__,
            default=len(rows),
        )
        if row == len(rows):
            rows.append([])
            room.append(row_length)
        rows[row].append(i)
        room[row] -= need
    return rows


def _shuffled(docs: list[Doc], batch: int, rng) -> np.ndarray:
    """A random order of the docs in which every whole batch of them has as many short and long
    ones.

    Of so many docs of like length as there are batches, each batch gets one. So batches need about
    the same number of rows, and none is computed for padding only because another has the long
    documents.
    """
    order = rng.permutation(len(docs))
    whole = len(docs) // batch
    ranked = sorted(order[: whole * batch].tolist(), key=lambda i: _length(docs[i]))
    dealt = rng.permuted(np.array(ranked, int).reshape(batch, whole), axis=1)
    return np.concatenate([dealt.T.ravel(), order[whole * batch :]])


def _spread(docs, plan, parts: int) -> list[list[list[int]]]:
    """The rows of each part, so that all have about as many response tokens to predict."""
    plan = sorted(plan, key=lambda row: -sum(_chosen(docs[i]) for i in row))
    return [plan[p::parts] for p in range(parts)]


def _chosen(doc: Doc) -> int:
    return sum(map(len, doc.responses))


def epochs(
    docs: list[Doc], count: int, *, batch: int, row_length: int, parts: int = 1, rng=None
) -> list[list[Batch]]:
    """`count` passes over the docs, each as batches of `batch` examples; all batches of all passes
    have one shape.

    Of the numbers that could be, a shape takes one of a few (see `buckets.bucket`), so that another
    round of about as many tokens has the same. A last, incomplete batch is filled with examples
    that are not real.

    Args:
      docs: all with the same number of responses N.
      parts: of the rows, P: one for each device group between which the mesh splits them, times the
        micro-batches.
      rng: shuffles the docs of each pass; None keeps their order.
    Returns batches of numpy arrays whose ref_logp is nan: not annotated. ValueError for docs of
    unequal N.
    """
    if len({len(doc.responses) for doc in docs}) > 1:
        raise ValueError(
            f'examples of one update differ in responses: {sorted({len(d.responses) for d in docs})}'
        )
    orders = [
        range(len(docs)) if rng is None else _shuffled(docs, batch, rng) for _ in range(count)
    ]
    starts = range(0, len(docs), batch)
    updates = [[[docs[i] for i in order[at : at + batch]] for at in starts] for order in orders]
    plans = [[_spread(some, _best_fit(some, row_length), parts) for some in one] for one in updates]
    flat = [
        (some, part)
        for one, of in zip(updates, plans)
        for some, plan in zip(one, of)
        for part in plan
    ]
    rows = buckets.bucket(parts * max((len(part) for _, part in flat), default=0), parts)
    chosen = buckets.bucket(
        max((sum(_chosen(some[i]) for row in part for i in row) for some, part in flat), default=0)
    )
    shape = batch, rows // parts, row_length, chosen
    return [
        [_pack(some, plan, *shape) for some, plan in zip(one, of)]
        for one, of in zip(updates, plans)
    ]


def batches(docs: list[Doc], **options) -> list[Batch]:
    """One pass over the docs: see `epochs`."""
    return epochs(docs, 1, **options)[0]


def _pack(docs, plan, batch: int, rows: int, row_length: int, columns: int) -> Batch:
    """The docs in parts of `rows` rows each."""
    parts = len(plan)
    tokens, position, doc_of, branch = np.zeros((4, parts * rows, row_length), np.int32)
    target, source = np.zeros((2, parts, columns), np.int32)
    mask = np.zeros((parts, columns), np.float32)
    weight, real = np.zeros((2, batch), np.float32)
    index = np.zeros(batch, np.int32)
    for p, its in enumerate(plan):
        chosen = 0
        for r, members in enumerate(its):
            row, first, at = p * rows + r, r * row_length, 0
            for i in members:
                doc, opening = docs[i], at + len(docs[i].prompt)
                weight[i], real[i], index[i] = doc.weight, 1.0, doc.index
                for b, words in enumerate((doc.prompt, *doc.responses)):
                    here = slice(at, at + len(words))
                    tokens[row, here], doc_of[row, here], branch[row, here] = words, i + 1, b
                    begin = 0 if b == 0 else len(doc.prompt)
                    position[row, here] = np.arange(begin, begin + len(words))
                    if b:  # the prompt's last token predicts a branch's first, each token of it the next
                        there = slice(chosen, chosen + len(words))
                        target[p, there] = first + np.arange(at, at + len(words))
                        source[p, there] = first + np.arange(at - 1, at + len(words) - 1)
                        source[p, chosen] = first + opening - 1
                        mask[p, there] = 1.0
                        chosen += len(words)
                    at += len(words)
    lengths = np.sum([[len(r) for r in doc.responses] for doc in docs], axis=0, dtype=np.float32)
    ref_logp = np.full((batch, len(lengths)), np.nan, np.float32)
    count = np.float32(len(docs))
    return Batch(
        tokens,
        position,
        doc_of,
        branch,
        target,
        source,
        mask,
        weight,
        real,
        index,
        count,
        lengths,
        ref_logp,
    )


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """The batch as so many micro-batches, a share of its rows each; an example is real in the one
    that has its rows.

    The totals `count` and `lengths` stay those of the whole, so that sums over the micro-batches
    are those over all.
    """
    if count == 1:
        return [batch]
    by_row = {name: np.split(getattr(batch, name), count) for name in ROWS}
    out = [
        batch._replace(**{name: found[i] for name, found in by_row.items()}) for i in range(count)
    ]
    here = [np.isin(1 + np.arange(len(batch.real)), one.doc) for one in out]
    return [one._replace(real=one.real * mine) for one, mine in zip(out, here)]


def place(lm, batch: Batch) -> Batch:
    """The batch on the mesh, or micro-batches stacked: rows split, what is per example whole."""
    rows = sharding.of(
        lm.mesh, *[None] * (np.ndim(batch.tokens) - 2), 'rows'
    )  # before them, micro-batches
    return Batch(
        *(
            processes.place(x, rows) if name in ROWS else lm.replicate(x)
            for name, x in batch._asdict().items()
        )
    )
