"""Packs examples into batches of rows: the only bridge from text to arrays."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from selfrew.mesh import buckets, processes, sharding
from selfrew.types import Batch, Example

# The fields of Batch that the mesh shards.
ROW_FIELDS = (
    *('tokens', 'position', 'doc', 'branch', 'target', 'source', 'mask'),
    *('ref_token_logp', 'old_token_logp'),
)


class Doc(NamedTuple):
    """A tokenised example."""

    index: int  # of the example in the round
    prompt: tuple
    responses: tuple  # (N,) of tuples of tokens
    weight: float
    scores: tuple = ()  # (N,) or ()
    labels: tuple = ()  # (N,) or ()
    ended: tuple = ()  # (N,) of bool, whether each response came to its end; (): all did

    @property
    def response_length(self) -> int:
        """Tokens of all responses."""
        return sum(map(len, self.responses))

    @property
    def length(self) -> int:
        """Tokens of the prompt and all responses."""
        return len(self.prompt) + self.response_length


def tokenise(
    text, examples: list[Example], *, row_length: int, positions: int | None = None
) -> tuple[list[Doc], int]:
    """(docs, dropped): the examples that fit, and the number of those that do not.

    An example fits if its prompt and all its responses fit into a row, its prompt and any one
    response fit into the model's positions (None: no limit), and no response is empty.

    A sampled response keeps its sampled tokens. One given as text is tokenised, with the end token
    only if its finish is 'stop'. Nothing is truncated: half a response would teach the model to
    stop in the wrong place.
    """
    docs = []
    for index, example in enumerate(examples):
        responses = tuple(
            tuple(r.tokens or text.response_tokens(r.text, r.finish)) for r in example.responses
        )
        prompt = tuple(text.prompt_tokens(example.prompt))
        ended = tuple(r.finish == 'stop' for r in example.responses)
        doc = Doc(index, prompt, responses, example.weight, example.scores, example.labels, ended)
        longest = len(doc.prompt) + max(map(len, responses))
        if all(responses) and doc.length <= row_length and longest <= (positions or longest):
            docs.append(doc)
    return docs, len(examples) - len(docs)


def with_mismatched(docs: list[Doc], row_length: int, positions: int | None = None) -> list[Doc]:
    """The docs, each with a last response that answers another prompt: the first response of the
    next doc, in a circle, that has another prompt and whose response fits; see `tokenise`.

    A doc for which there is none is left out.
    """
    made = []
    for i, doc in enumerate(docs):
        room = row_length - doc.length
        longest = min(room, (positions or row_length) - len(doc.prompt))
        for other in (*docs[i + 1 :], *docs[:i]):
            if other.prompt != doc.prompt and len(other.responses[0]) <= longest:
                made.append(doc._replace(responses=(*doc.responses, other.responses[0])))
                break
    return made


def best_fit_rows(docs: list[Doc], row_length: int) -> list[list[int]]:
    """The rows, each as the indices of its docs: each doc, longest first, goes into the fullest row
    that has room.

    This takes at most about 11/9 of the fewest possible rows (Johnson 1974).
    """
    rows, room = [], []
    for index in sorted(range(len(docs)), key=lambda i: -docs[i].length):
        length = docs[index].length
        fitting = (row for row, left in enumerate(room) if left >= length)
        row = min(fitting, key=room.__getitem__, default=len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_length)
        rows[row].append(index)
        room[row] -= length
    return rows


def _shuffled(docs: list[Doc], batch: int, rng) -> np.ndarray:
    """A random order of the docs in which every complete batch has the same mix of short and long
    docs.

    The docs are sorted by length and cut into groups of as many docs as there are batches; each
    batch gets one doc of each group. So batches need about the same number of rows, and little is
    computed for padding to the largest batch.
    """
    order = rng.permutation(len(docs))
    whole = len(docs) // batch
    ranked = sorted(order[: whole * batch].tolist(), key=lambda i: docs[i].length)
    dealt = rng.permuted(np.array(ranked, int).reshape(batch, whole), axis=1)
    return np.concatenate([dealt.T.ravel(), order[whole * batch :]])


class _Layout(NamedTuple):
    """The docs of one update, and the row that each lies in."""

    docs: list[Doc]
    parts: list[list[list[int]]]  # each part's rows, each row the indices of its docs

    @property
    def most_rows(self) -> int:
        """Rows of the largest part."""
        return max(map(len, self.parts))

    @property
    def most_selected(self) -> int:
        """Response tokens of the part that has most."""
        return max(sum(_selected(self.docs, row) for row in rows) for rows in self.parts)


def _selected(docs: list[Doc], row: list[int]) -> int:
    return sum(docs[i].response_length for i in row)


def _layout(docs: list[Doc], row_length: int, parts: int) -> _Layout:
    """Packs docs into rows, and deals these to parts with about as many response tokens each."""
    rows = sorted(best_fit_rows(docs, row_length), key=lambda row: -_selected(docs, row))
    return _Layout(docs, [rows[part::parts] for part in range(parts)])


def epochs(
    docs: list[Doc], count: int, *, batch: int, row_length: int, parts: int = 1, rng=None
) -> list[list[Batch]]:
    """`count` passes over the docs, each a list of batches of `batch` examples. All batches of all
    passes have one shape.

    The shape is bucketed (see `buckets.bucket`), so another round of about as many tokens has the
    same one. A last, incomplete batch is filled with examples that are not real.

    Args:
      docs: all with the same number of responses N.
      parts: P, the number of parts that the rows are split into: row shards of the mesh times
        micro-batches.
      rng: shuffles the docs of each pass; None keeps their order.
    Returns batches of numpy arrays; their ref_logp is nan. Raises ValueError if the docs differ
    in N.
    """
    _check_response_counts(docs)
    starts, passes = range(0, len(docs), batch), []
    for _ in range(count):
        order = range(len(docs)) if rng is None else _shuffled(docs, batch, rng)
        updates = [[docs[i] for i in order[start : start + batch]] for start in starts]
        passes.append([_layout(update, row_length, parts) for update in updates])
    layouts = [layout for updates in passes for layout in updates]
    rows = buckets.bucket(parts * max((x.most_rows for x in layouts), default=0), parts)
    selected = buckets.bucket(max((x.most_selected for x in layouts), default=0))
    shape = {'batch': batch, 'rows': rows // parts, 'row_length': row_length, 'selected': selected}
    return [[pack_rows(*layout, **shape) for layout in updates] for updates in passes]


def _check_response_counts(docs: list[Doc]) -> None:
    example_of = {len(doc.responses): doc.index for doc in reversed(docs)}
    if len(example_of) > 1:
        listed = ', '.join(f'example {i} has {n}' for n, i in sorted(example_of.items()))
        raise ValueError(f'examples of one update differ in the number of responses: {listed}')


def batches(docs: list[Doc], **options) -> list[Batch]:
    """One pass over the docs: see `epochs`."""
    return epochs(docs, 1, **options)[0]


class _Segment(NamedTuple):
    """A prompt or a response, and its place in a row."""

    doc: int  # index of its doc
    branch: int  # 0 the prompt, 1 + n the n-th response
    row: int  # within the part
    start: int  # index of its first token in the row
    prompt_stop: int  # index after the prompt's last token
    position: int  # of its first token in the document
    tokens: tuple


def _segments(docs: list[Doc], rows: list[list[int]]) -> Iterator[_Segment]:
    for row, members in enumerate(rows):
        start = 0
        for index in members:
            prompt, responses = docs[index].prompt, docs[index].responses
            prompt_stop = start + len(prompt)
            for branch, tokens in enumerate((prompt, *responses)):
                position = len(prompt) if branch else 0
                yield _Segment(index, branch, row, start, prompt_stop, position, tokens)
                start += len(tokens)


def pack_rows(
    docs: list[Doc],
    parts: list[list[list[int]]],
    *,
    batch: int,
    rows: int,
    row_length: int,
    selected: int,
) -> Batch:
    """The batch of these docs.

    Args:
      parts: for each part its rows, each row the indices of its docs. Each doc lies in one row.
      batch, rows, row_length, selected: B, the rows of a part, L and S.
    """
    shape_RL = len(parts) * rows, row_length
    tokens_RL, position_RL, doc_RL, branch_RL = np.zeros((4, *shape_RL), np.int32)
    target_PS, source_PS = np.zeros((2, len(parts), selected), np.int32)
    mask_PS = np.zeros((len(parts), selected), np.float32)
    for part, part_rows in enumerate(parts):
        filled = 0  # selected tokens of the part so far
        for segment in _segments(docs, part_rows):
            count = len(segment.tokens)
            place = part * rows + segment.row, slice(segment.start, segment.start + count)
            tokens_RL[place] = segment.tokens
            position_RL[place] = np.arange(segment.position, segment.position + count)
            doc_RL[place] = 1 + segment.doc
            branch_RL[place] = segment.branch
            if segment.branch > 0:
                row_start = segment.row * row_length
                columns = slice(filled, filled + count)
                target_PS[part, columns] = row_start + segment.start + np.arange(count)
                # Each token is predicted by the one before it, the first by the prompt's last.
                source_PS[part, columns] = target_PS[part, columns] - 1
                source_PS[part, filled] = row_start + segment.prompt_stop - 1
                mask_PS[part, columns] = 1.0
                filled += count
    weight_B, real_B = np.zeros((2, batch), np.float32)
    index_B = np.zeros(batch, np.int32)
    weight_B[: len(docs)] = [doc.weight for doc in docs]
    real_B[: len(docs)] = 1.0
    index_B[: len(docs)] = [doc.index for doc in docs]
    response_lengths = np.array([[len(response) for response in doc.responses] for doc in docs])
    lengths_N = response_lengths.sum(axis=0, dtype=np.float32)
    shape_BN = batch, len(lengths_N)
    ref_logp_BN = np.full(shape_BN, np.nan, np.float32)
    scores_BN, labels_BN = np.full((2, *shape_BN), np.nan, np.float32)
    ended_BN = np.ones(shape_BN, np.float32)
    for b, doc in enumerate(docs):
        scores_BN[b, : len(doc.scores)] = doc.scores
        labels_BN[b, : len(doc.labels)] = doc.labels
        ended_BN[b, : len(doc.ended)] = doc.ended
    return Batch(
        tokens_RL,
        position_RL,
        doc_RL,
        branch_RL,
        target_PS,
        source_PS,
        mask_PS,
        weight_B,
        real_B,
        index_B,
        np.float32(len(docs)),
        lengths_N,
        ref_logp_BN,
        scores_BN,
        labels_BN,
        ended_BN,
    )


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """The batch as `count` micro-batches with an equal share of its rows each.

    An example is real in the one that has its rows. The totals `count` and `lengths` stay those of
    the whole batch, so that sums over the micro-batches are the sums over all of it.
    """
    if count == 1:
        return [batch]
    fields = {name: getattr(batch, name) for name in ROW_FIELDS}
    shares = {name: np.split(x, count) for name, x in fields.items() if x is not None}
    micros = [
        batch._replace(**{name: arrays[i] for name, arrays in shares.items()}) for i in range(count)
    ]
    doc_ids = 1 + np.arange(len(batch.real))
    return [micro._replace(real=micro.real * np.isin(doc_ids, micro.doc)) for micro in micros]


def place(lm, batch: Batch) -> Batch:
    """The batch, or stacked micro-batches, on the mesh.

    Rows are sharded, fields per example are replicated.
    """
    stacked_axes = np.ndim(batch.tokens) - 2
    by_row = sharding.of(lm.mesh, *[None] * stacked_axes, 'rows')
    return Batch(
        **{
            name: processes.place(array, by_row) if name in ROW_FIELDS else lm.replicate(array)
            for name, array in batch._asdict().items()
            if array is not None
        }
    )
