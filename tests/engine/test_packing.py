"""Batches hold what the examples say: every token, every mask and every position, whatever the ids
are.
"""

import numpy as np
import pytest
from toys import BOS, EOS, PAD, Numbers, docs, prompt

from selfrew.engine import packing
from selfrew.types import Example, Response, ask


def _documents(batch):
    """What a batch's rows hold: example number -> (prompt, responses), read from the ids of doc and
    branch alone.
    """
    found = {}
    for row in range(len(batch.tokens)):
        for doc in set(batch.doc[row].tolist()) - {0}:
            mine = batch.doc[row] == doc
            parts = range(batch.ref_logp.shape[1] + 1)
            prompt, *branches = [
                tuple(batch.tokens[row][mine & (batch.branch[row] == b)].tolist()) for b in parts
            ]
            assert int(batch.index[doc - 1]) not in found, 'a document stands in one row only'
            found[int(batch.index[doc - 1])] = (prompt, tuple(branches))
    return found


@pytest.mark.parametrize('row_length', [30, 100])
@pytest.mark.parametrize('n', [1, 2, 3])
def test_rows_give_back_their_documents(n, row_length):
    given = docs(11, n=n, seed=n, high=7)
    batches = packing.batches(given, batch=4, row_length=row_length, rng=np.random.default_rng(0))
    found = {}
    for batch in batches:
        found |= _documents(batch)
    assert found == {d.index: (d.prompt, d.responses) for d in given}


def test_all_batches_have_one_shape_and_rows_divide_among_devices():
    batches = packing.batches(
        docs(23, seed=3), batch=5, row_length=40, parts=8, rng=np.random.default_rng(1)
    )
    assert len(batches) == 5  # ceil(23 / 5)
    assert len({tuple(x.shape for x in b) for b in batches}) == 1
    assert batches[0].tokens.shape[0] % 8 == 0


def _lengths(kind: str, count: int, rng):
    """Of documents that fit into a row of 512."""
    found = {
        'geometric': 20 + rng.geometric(1 / 150, count),
        'even': rng.integers(1, 513, count),
        'two': np.where(
            rng.random(count) < 0.5, rng.integers(20, 60, count), rng.integers(300, 400, count)
        ),
    }
    return np.minimum(found[kind], 512).tolist()


@pytest.mark.parametrize('kind, most', [('geometric', 1.06), ('even', 1.1), ('two', 1.08)])
def test_rows_are_close_to_the_fewest_that_could_be(kind, most):
    """No fewer than the tokens fill, nor than there are documents longer than half a row."""
    rng, taken, least = np.random.default_rng(0), 0, 0
    for _ in range(30):
        lengths = _lengths(kind, 64, rng)
        plan = packing._best_fit(
            [packing.Doc(i, (3,) * n, ((),), 1.0) for i, n in enumerate(lengths)], 512
        )
        assert sorted(i for row in plan for i in row) == list(range(64))
        assert max(sum(lengths[i] for i in row) for row in plan) <= 512
        taken, least = (
            taken + len(plan),
            least + max(-(-sum(lengths) // 512), sum(2 * n > 512 for n in lengths)),
        )
    assert taken / least < most


def test_epochs_have_one_shape_and_each_sees_every_document_once():
    given = docs(41, seed=3, high=20)
    passes = packing.epochs(given, 6, batch=8, row_length=64, parts=2, rng=np.random.default_rng(1))
    assert len({tuple(np.shape(x) for x in b) for one in passes for b in one}) == 1
    for one in passes:
        assert sorted(int(i) for b in one for i in b.index[b.real > 0]) == list(range(41))
    assert len({tuple(one[0].index.tolist()) for one in passes}) == 6  # shuffled anew


def test_every_batch_gets_short_and_long_documents_alike():
    """Of 80 lengths that differ, a batch of 8 gets one of each ten by rank, so that its total is
    near the mean.
    """
    given = [packing.Doc(i, (3,) * (5 + i), ((4,),), 1.0) for i in range(80)]
    for batch in packing.batches(given, batch=8, row_length=128, rng=np.random.default_rng(2)):
        assert sorted(batch.index // 10) == list(range(8))


def test_rounds_of_like_size_share_a_shape():
    shapes = set()
    for seed in range(12):
        given = docs(64, seed=seed, high=30)
        (*_, last) = packing.batches(
            given, batch=16, row_length=96, rng=np.random.default_rng(seed)
        )
        shapes.add((last.tokens.shape, last.target.shape))
    assert len(shapes) <= 2


def test_micro_batches_share_out_the_rows_and_keep_the_totals():
    (batch,) = packing.batches(docs(9, seed=1), batch=11, row_length=40, parts=6)
    micros = packing.micro_batches(batch, 3)
    np.testing.assert_array_equal(sum(m.real for m in micros), batch.real)
    assert {m.tokens.shape for m in micros} == {(len(batch.tokens) // 3, 40)} and {
        len(m.target) for m in micros
    } == {2}
    found = {}
    for m in micros:
        found |= _documents(m)
        assert m.count == 9 and m.lengths.tolist() == batch.lengths.tolist()
        assert {d - 1 for d in m.doc.ravel().tolist()} - {-1} == set(
            np.flatnonzero(m.real).tolist()
        )
    assert found == _documents(batch)
    assert batch.lengths.tolist() == [
        sum(len(d.responses[n]) for d in docs(9, seed=1)) for n in range(2)
    ]


def test_the_last_incomplete_batch_is_filled_with_what_is_not_real():
    given = docs(7, seed=5)
    *_, last = packing.batches(given, batch=4, row_length=40)
    assert last.real.tolist() == [1, 1, 1, 0]  # 7 = 4 + 3
    assert last.weight.tolist() == [np.float32(d.weight) for d in given[4:]] + [0]
    assert set(last.doc.ravel().tolist()) == {0, 1, 2, 3}


def test_masks_come_from_lengths_never_from_ids():
    response = (PAD, 7, EOS, PAD, PAD)  # what a mask by ids would leave out
    doc = packing.Doc(0, (BOS, PAD, EOS), (response, (EOS,)), 1.0)
    (batch,) = packing.batches([doc], batch=1, row_length=16)
    assert batch.mask.sum() == 6  # 5 tokens and 1
    row, column = np.nonzero(batch.mask)
    assert tuple(batch.tokens.reshape(1, -1)[row, batch.target[row, column]].tolist()) == (
        *response,
        EOS,
    )


def test_each_token_is_predicted_from_the_one_before_it_in_its_own_branch():
    """By brute force: a target's source is the same branch's token one position earlier, or else
    the prompt's last.
    """
    for batch in packing.batches(
        docs(9, n=3, seed=7), batch=5, row_length=60, rng=np.random.default_rng(2)
    ):
        expected = set()
        length = batch.doc.shape[1]
        for row, (doc, branch, position) in enumerate(zip(batch.doc, batch.branch, batch.position)):
            columns = zip(doc.tolist(), branch.tolist(), position.tolist())
            at = {(d, b, p): i for i, (d, b, p) in enumerate(columns) if d}
            for (d, b, p), i in at.items():
                if b:
                    before = at[d, b, p - 1] if (d, b, p - 1) in at else at[d, 0, p - 1]
                    expected.add((row * length + before, row * length + i))
        part, column = np.nonzero(batch.mask)
        first = part * length * len(batch.doc) // len(batch.target)
        found = [
            *zip(
                (first + batch.source[part, column]).tolist(),
                (first + batch.target[part, column]).tolist(),
            )
        ]
        assert len(found) == len(set(found)) and set(found) == expected


def test_positions_of_every_branch_continue_the_prompt():
    for batch in packing.batches(docs(9, n=3, seed=8), batch=5, row_length=60):
        for row in range(len(batch.tokens)):
            for doc in set(batch.doc[row].tolist()) - {0}:
                where = [
                    batch.position[row][(batch.doc[row] == doc) & (batch.branch[row] == b)]
                    for b in range(4)
                ]
                for mine, first in zip(where, (0, *[len(where[0])] * 3)):
                    assert mine.tolist() == list(range(first, first + len(mine)))


def test_a_given_response_ends_once_and_only_where_it_ended_by_itself(tiny):
    lm, _ = tiny
    texts = Response('so it is', finish='stop'), Response('so it', finish='length')
    ((doc,), dropped) = packing.tokenise(
        lm.text, [Example(ask('a', 'Is it?'), texts)], row_length=128
    )
    assert dropped == 0
    assert doc.responses[0].count(lm.text.eos) == 1 and doc.responses[0][-1] == lm.text.eos
    assert lm.text.eos not in doc.responses[1]
    assert [lm.text.decode(r) for r in doc.responses] == ['so it is', 'so it']


def test_sampled_tokens_stay_as_they_were_sampled(tiny):
    lm, _ = tiny
    word = lm.text.decode([lm.config.vocab - 1])  # the last merge of the vocabulary
    letters = tuple(t for c in word for t in lm.text.encode(c))
    assert letters != tuple(
        lm.text.encode(word)
    )  # tokenising the text again would give other tokens
    sampled = Response(word, letters, 'stop', -3.0)
    ((doc,), _) = packing.tokenise(
        lm.text, [Example(ask('a', 'What?'), (sampled,))], row_length=128
    )
    assert doc.responses == (letters,)


def test_a_prompt_has_its_bos_once(tiny):
    lm, _ = tiny
    for given in (ask('a', 'Hi'), ask('b', ''), ask('c', 'Hi')):
        tokens = lm.text.prompt_tokens(given)
        assert tokens.count(lm.text.bos) == 1 and tokens[0] == lm.text.bos


def test_what_does_not_fit_is_dropped_whole_and_counted():
    # 1 BOS + 3 of the prompt + (k + 1 EOS) of the response: 5 + k tokens
    examples = [Example(prompt([5, 6, 7]), (Response(' '.join(['9'] * k)),)) for k in (1, 5, 6, 30)]
    found, dropped = packing.tokenise(Numbers(), examples, row_length=10)
    assert dropped == 2 and [d.index for d in found] == [0, 1]
    assert [len(d.responses[0]) for d in found] == [2, 6]


def test_an_example_with_an_empty_response_is_dropped_and_counted():
    empty = Example(prompt([5]), (Response('4'), Response('', finish='length')))
    ended = Example(prompt([5]), (Response('4'), Response('')))  # of its end token alone
    found, dropped = packing.tokenise(Numbers(), [empty, ended], row_length=20)
    assert dropped == 1 and [d.responses for d in found] == [((4, EOS), (EOS,))]


def test_examples_of_unequal_numbers_of_responses_are_refused():
    with pytest.raises(ValueError, match=r'\[1, 2\]'):
        packing.batches(docs(2, n=1) + docs(2, n=2), batch=4, row_length=40)


def test_unannotated_references_are_nan():
    assert all(np.isnan(b.ref_logp).all() for b in packing.batches(docs(5), batch=2, row_length=40))


def test_what_is_longer_than_the_models_positions_is_left_out_however_long_the_row():
    """BOS and five tokens of prompt, three and five of responses: 6 + 5 = 11 positions, 14 places
    of a row.
    """
    examples = [Example(prompt(range(3, 8)), (Response('9 9', finish='stop'), Response('9 9 9 9')))]
    assert packing.tokenise(Numbers(), examples, row_length=14, positions=11)[1] == 0
    assert packing.tokenise(Numbers(), examples, row_length=14, positions=10)[1] == 1
    assert packing.tokenise(Numbers(), examples, row_length=13, positions=11)[1] == 1
