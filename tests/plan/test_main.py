"""`python -m selfrew.plan` plans a small model with libtpu's compiler and names mistakes."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SMALL = """
from configs import base

SHAPE = {
    'architectures': ['LlamaForCausalLM'], 'hidden_size': 256, 'intermediate_size': 512,
    'num_hidden_layers': 2, 'num_attention_heads': 2, 'num_key_value_heads': 2, 'vocab_size': 512,
    'max_position_embeddings': 256,
}

def get_config(arg=''):
    config = base.get(rounds=1, round={
        'prompts': {'name': 'records', 'source': 'no/such/file.jsonl', 'n': 100},
        'sampler': {'name': 'sample', 'n': 2, 'max_tokens': 32, 'slots': 16},
        'scorer': {'name': 'length'}, 'pairs': {'name': 'extremes'}, 'loss': {'name': 'dpo'},
        'train': {'lr': 1e-6, 'batch': 8, 'row_length': 128},
    }, evals={})
    config.model = {'folder': 'none', 'dtype': 'bfloat16', 'shape': SHAPE}
    config.mesh.fsdp = 4
    return config
"""
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='wants pip install -e ".[plan]"'
)


def run_plan(*arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    return subprocess.run(
        [sys.executable, '-m', 'selfrew.plan', *arguments],
        cwd=ROOT,
        env=environment | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--topology=v5e-8'], 'want --config'),
        (
            ['--config=configs/quickstart.py'],
            'one of --topology=NAME, e.g. --topology=v5p:4x4x4, --chips',
        ),
        (['--config=configs/quickstart.py', '--topology=v5e-8', '--here'], 'want --config=FILE'),
        (
            ['--config=configs/quickstart.py', '--here', '--response_tokens=3,9'],
            '--response_tokens is read with --topology alone',
        ),
        (
            ['--config=configs/self_rewarding.py:llama2_70b', '--topology=v7-8'],
            "no topology 'v7-8'",
        ),
    ],
    ids=['config', 'neither', 'both', 'lengths', 'topology'],
)
def test_a_mistake_is_named_without_a_traceback(arguments, words):
    process = run_plan(*arguments)
    assert process.returncode != 0 and words in process.stdout + process.stderr
    assert 'Traceback' not in process.stderr


@needs_libtpu
def test_a_mesh_whose_axes_are_no_sides_of_the_torus_takes_parts_of_them():
    code = (
        'from selfrew.plan import chips; import os; os.environ |= chips.ENVIRONMENT; '
        "from selfrew.mesh import sharding; devices = chips.devices('v5p:8x8x4')[2]; "
        'print(dict(sharding.make_mesh(fsdp=16, tensor=16, devices=devices).shape))'
    )
    process = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=True
    )
    assert process.stdout.strip() == "{'data': 1, 'fsdp': 16, 'tensor': 16}"


@needs_libtpu
@pytest.mark.slow
def test_a_small_model_is_planned_for_eight_chips(tmp_path):
    (tmp_path / 'small.py').write_text(SMALL)
    process = run_plan(
        f'--config={tmp_path}/small.py', '--topology=v5e:2x4', '--prompt_tokens=32', '--json'
    )
    assert process.returncode == 0, process.stderr
    plan = json.loads(process.stdout)
    assert plan['devices'] == 8 and plan['mesh']['fsdp'] == 4
    assert '4 chips have nothing to do' in plan['verdict']
    titles = {'sample: prefill', 'sample: decode', 'reference', 'update'}
    assert plan['fits'] and set(plan['programs']) == titles
    assert plan['sampling_mesh'] == {'data': 4, 'fsdp': 1, 'tensor': 1}
    # Attention by kernels, of the work that is counted by hand; in each of 16 steps and 2 layers.
    assert plan['programs']['sample: decode']['kernels'] == 16 * 2
    assert plan['programs']['update']['pallas_seconds'] > 0
    update = plan['programs']['update']
    matrix = 2 * (4 * 256 * 256 + 3 * 256 * 512)  # of both layers: q, k, v, o; gate, up, down
    # float32 over 4 devices; norms are whole on each
    share = plan['parameters'] * 4 / 4
    assert share <= update['bytes']['params'] < 1.02 * share
    assert update['model_flops'] > 6 * matrix * update['tokens'] and update['unknown_loops'] == 0
    assert update['collectives'] and 0 < update['mfu'] < 1 and plan['round_seconds']['round'] > 0


@pytest.mark.slow
def test_a_run_is_planned_for_the_devices_of_this_machine(tmp_path):
    (tmp_path / 'small.py').write_text(SMALL.replace('fsdp = 4', 'fsdp = 1'))
    result = run_plan(f'--config={tmp_path}/small.py', '--here', '--json')
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert set(plan['programs']) == {'sample: prefill', 'sample: decode', 'reference', 'update'}
    assert plan['fits'] and plan['memory_gib'] > 1
    assert (plan['update']['accumulate'], plan['update']['remat']) == (1, 'none')
    compiled = plan['programs']['update']['bytes']['total']
    assert 0.8 <= plan['update']['needed'] / compiled <= 2.0
    text = run_plan(f'--config={tmp_path}/small.py', '--here').stdout
    assert 'an update: accumulate 1, remat none' in text and 'slots: sample 16' in text
    assert text.endswith('fits.\n')
