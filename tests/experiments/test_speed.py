"""The speed measurement's workload is as stated, its FLOPs are those counted by hand, its flags are
checked.
"""

import json
import math
import pathlib
import subprocess

import numpy as np
import pytest

from experiments.speed import peers, run, workload

TINY = (
    '--shape=test --pairs=2 --row_length=384 --steps=1 --rounds=1 --prompts=2 --samples=2 '
    '--max_tokens=4 --gemm=32'
).split()


def test_lengths_are_as_stated():
    shape = workload.SHAPES['default']
    pairs = workload.pairs(shape, 2000)
    lengths = np.array([[len(part) for part in pair] for pair in pairs])
    prompt, chosen, rejected = lengths.T
    assert (prompt.min(), prompt.max()) == (24, 128) and abs(prompt.mean() - 70) < 2
    for response in (chosen, rejected):
        assert (response.min(), response.max()) == (8, 128) and abs(response.mean() - 60) < 2
    assert workload.real_tokens(pairs) == (2 * prompt + chosen + rejected).sum()
    first, second = workload.prompts(shape, 3), workload.prompts(shape, 3, seed=1)
    assert list(map(len, first)) != list(map(len, second))


def test_tokens_are_words_and_responses_end_once():
    shape = workload.SHAPES['default']
    stops = set(workload.ends(shape))
    assert len(stops) == 163 and workload.PAD not in stops
    for pair in workload.pairs(shape, 50):
        assert not stops & {*pair.prompt, *pair.chosen[:-1], *pair.rejected[:-1]}
        assert {pair.chosen[-1], pair.rejected[-1]} <= stops and max(pair.prompt) < shape.vocab
    assert workload.pairs(shape, 5) == workload.pairs(shape, 5) != workload.pairs(shape, 5, seed=1)
    assert workload.produced([7, 8, 1, 9], {1, 2}) == 3 and workload.produced([7, 8], {1, 2}) == 2


def test_flops_are_those_counted_by_hand():
    shape = workload.Shape(vocab=10, width=2, layers=1, heads=1, kv_heads=1, head_dim=2, mlp=3)
    assert workload.matrix_weights(shape) == 4 * 2 * 2 + 3 * 2 * 3 == 34
    # A prompt of 2 tokens. Of a response of 2 tokens 1 is read, of a response of 1 none. The 3 that
    # are read see 1, 2 and 3 tokens.
    forward = 2 * 34 * 3 + 4 * 2 * (1 + 2 + 3) + 2 * 2 * 10 * 3
    assert workload.forward_flops(shape, 2, [2, 1]) == forward == 372
    pair = workload.Pair((5, 6), (7, 1), (1,))
    assert workload.update_flops(shape, [pair, pair]) == 2 * 4 * forward
    assert workload.sample_flops(shape, [2], [[2, 1]]) == forward
    # Two steps, each with 34 + 20 weights; the one token that is read sees 3, each a key and a
    # value of 2 numbers.
    assert workload.sample_bytes(shape, [2], [[2, 1]], slots=2, width=4) == 4 * (2 * 54 + 3 * 4)
    assert workload.sample_bytes(shape, [2], [[2, 1]], slots=1, width=4) == 4 * (3 * 54 + 3 * 4)


@pytest.mark.slow
def test_run_writes_all_figures(tmp_path, monkeypatch, capsys):
    path = tmp_path / 'out.json'
    monkeypatch.setattr('sys.argv', ['run', *TINY, f'--json={path}'])
    run.main()
    out = json.loads(path.read_text())
    wanted = {
        'update': ('tokens_per_s', 'step_s', 'peak_fraction', 'compiles'),
        'sample': ('tokens_per_s', 'peak_fraction', 'compiles'),
    }
    figures = [out[part][key] for part, keys in wanted.items() for key in keys]
    figures += [out['gemm_peak_gflops'], out['peak_rss_gb']]
    assert all(math.isfinite(x) and x > 0 for x in figures)
    assert out['update']['compiles_timed'] == out['sample']['compiles_timed'] == 0
    assert out['device'] and out['versions']['jax'] and out['flags']['steps'] == 1
    shape = workload.SHAPES['test']
    flops = workload.update_flops(shape, workload.pairs(shape, 2))
    assert out['update']['useful_gflop'] * 1e9 == pytest.approx(flops)
    printed = capsys.readouterr().out
    assert 'update: ' in printed and 'sample: ' in printed and 'real tokens/s' in printed


@pytest.mark.parametrize(
    'flag',
    [
        '--no_such=1',
        '--shape=huge',
        '--dtype=int8',
        '--pairs=0',
        '--steps=-1',
        '--slots=0',
        '--only=nothing',
        '--max_tokens=1000',
        '--seed=-1',
        '--row_length=x',
        '--attention=other',
        '--step=3',
    ],
)
def test_wrong_flags_are_refused(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        run.parse([flag])
    assert stop.value.code == 2 and flag.split('=')[0].strip('-') in capsys.readouterr().err


def test_peers_flags_are_checked(capsys):
    assert peers.parse(['--only=trl_dpo,tunix_dpo']).only == ['trl_dpo', 'tunix_dpo']
    for wrong in (['--only=other'], ['--inside', '--only=trl_dpo'], ['--rounds=0'], ['--trl=x']):
        with pytest.raises(SystemExit) as stop:
            peers.parse(wrong)
        assert stop.value.code == 2
    capsys.readouterr()


def test_rows_are_padded_on_the_side_that_is_asked_for():
    tokens, mask = workload.padded([(5, 6), (7,)], 3, left=True)
    assert tokens.tolist() == [[0, 5, 6], [0, 0, 7]] and mask.tolist() == [[0, 1, 1], [0, 0, 1]]
    tokens, mask = workload.padded([(5, 6), (7,)], 3, left=False)
    assert tokens.tolist() == [[5, 6, 0], [7, 0, 0]] and mask.tolist() == [[1, 1, 0], [1, 0, 0]]


def test_the_script_for_a_gpu_says_what_is_missing(tmp_path):
    script = pathlib.Path(run.__file__).with_name('gpu.sh')
    done = subprocess.run(['bash', script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and 'sees no GPU' in done.stderr
    done = subprocess.run(['bash', script, tmp_path, 'model'], capture_output=True, text=True)
    assert done.returncode == 2 and 'OUT [MODEL DATA]' in done.stderr
