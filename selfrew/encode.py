"""Examples to packed batches: the only bridge from text to arrays. Layer 3."""

from typing import NamedTuple

import numpy as np

from selfrew.types import Batch, Example


class Doc(NamedTuple):
    """A tokenised example."""

    index: int  # of the example in the round
    prompt: tuple
    responses: tuple  # (N,) of tuples of tokens
    weight: float


def tokenise(text, examples: list[Example], *, row_length: int,
             positions: int | None = None) -> tuple[list[Doc], int]:  # fmt: skip
    """The examples that fit, and how many did not fit or had an empty response.

    One fits whose prompt with all its responses fits into a row, and with each of them into the model's positions (None: any).

    A sampled response keeps the tokens that were sampled; one given as text is tokenised, with the end token only where
    it ended by itself. Nothing is cut: half a response would teach a wrong end.
    """
    docs = []
    for index, example in enumerate(examples):
        responses = tuple(tuple(r.tokens or text.response(r.text, r.finish)) for r in example.responses)
        doc = Doc(index, tuple(text.prompt(example.prompt)), responses, example.weight)
        longest = len(doc.prompt) + max(map(len, responses))
        if all(responses) and _length(doc) <= row_length and longest <= (positions or longest):
            docs.append(doc)
    return docs, len(examples) - len(docs)


def _length(doc: Doc) -> int:
    return len(doc.prompt) + sum(map(len, doc.responses))


def _first_fit(docs, row_length: int) -> list[list[int]]:
    """Which docs share a row: each, longest first, goes into the first row with room."""
    rows, room = [], []
    for i in sorted(range(len(docs)), key=lambda i: -_length(docs[i])):
        need = _length(docs[i])
        row = next((r for r, left in enumerate(room) if left >= need), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_length)
        rows[row].append(i)
        room[row] -= need
    return rows


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def batches(docs: list[Doc], *, batch: int, row_length: int, multiple: int = 1, rng=None) -> list[Batch]:
    """The docs as batches of `batch` examples, all of one shape; the last is filled with examples of weight 0.

    Args:
      docs: all with the same number of responses N.
      multiple: the number of rows is a multiple of this (the mesh's row count).
      rng: shuffles the docs; None keeps their order.
    Returns batches of numpy arrays whose ref_logp is nan: not annotated. ValueError for docs of unequal N.
    """
    if len({len(doc.responses) for doc in docs}) > 1:
        raise ValueError(f'examples of one update differ in responses: {sorted({len(d.responses) for d in docs})}')
    order = np.arange(len(docs)) if rng is None else rng.permutation(len(docs))
    groups = [[docs[i] for i in order[start : start + batch]] for start in range(0, len(docs), batch)]
    packed = [_first_fit(group, row_length) for group in groups]
    targets = [[sum(map(len, doc.responses)) for doc in group] for group in groups]
    selected = [sum(count[i] for i in row) for count, plan in zip(targets, packed) for row in plan]
    rows = _round_up(_round_up(max(map(len, packed)), 4), multiple) if packed else 0
    columns = _round_up(max(selected, default=0), 32)
    return [_pack(group, plan, batch, rows, row_length, columns) for group, plan in zip(groups, packed)]


def _pack(docs, plan, batch: int, rows: int, row_length: int, columns: int) -> Batch:
    tokens, position, doc_of, branch = np.zeros((4, rows, row_length), np.int32)
    target, source = np.zeros((2, rows, columns), np.int32)
    mask = np.zeros((rows, columns), np.float32)
    weight, real = np.zeros((2, batch), np.float32)
    index = np.zeros(batch, np.int32)
    for row, members in enumerate(plan):
        at = chosen = 0
        for i in members:
            doc, opening = docs[i], at + len(docs[i].prompt)
            weight[i], real[i], index[i] = doc.weight, 1.0, doc.index
            for b, part in enumerate((doc.prompt, *doc.responses)):
                here = slice(at, at + len(part))
                tokens[row, here], doc_of[row, here], branch[row, here] = part, i + 1, b
                first = 0 if b == 0 else len(doc.prompt)
                position[row, here] = np.arange(first, first + len(part))
                if b:  # the prompt's last token predicts a branch's first, each token of it the next
                    there = slice(chosen, chosen + len(part))
                    target[row, there] = np.arange(at, at + len(part))
                    source[row, there] = np.arange(at - 1, at + len(part) - 1)
                    source[row, chosen] = opening - 1
                    mask[row, there] = 1.0
                    chosen += len(part)
                at += len(part)
    n = len(docs[0].responses)
    ref_logp = np.full((batch, n), np.nan, np.float32)
    return Batch(tokens, position, doc_of, branch, target, source, mask, weight, real, index, ref_logp)
