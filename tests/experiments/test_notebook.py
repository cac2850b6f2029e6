"""The notebook runs from its first cell to its last."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from real_model import smollm2

import selfrew

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOK = ROOT / 'experiments' / 'colab' / 'your_model.ipynb'


@pytest.mark.slow
def test_the_notebook_trains_and_exports_a_model(tmp_path):
    """SmolLM2 where it can be made, else the tiny base. Compiled as for users, which is faster for
    a model of this size.
    """
    cells = json.loads(NOTEBOOK.read_text())['cells']
    cells = [cell for cell in cells if cell['cell_type'] == 'code']
    assert not any(cell['outputs'] for cell in cells), 'the notebook is kept without outputs'
    program = '\n\n'.join(''.join(cell['source']) for cell in cells)
    model, _ = smollm2()
    settings = {'MODEL': model.folder if model else 'tiny', 'FOLDER': str(tmp_path)}
    environment = os.environ | settings | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''}
    command = [sys.executable, '-c', program]
    ran = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    examples = tmp_path / 'run' / 'rounds' / '01' / 'examples.jsonl'
    pairs = [json.loads(line) for line in examples.read_text().splitlines()]
    assert pairs and all(pair['scores'][0] > pair['scores'][1] for pair in pairs)
    rounds = json.loads((tmp_path / 'run' / 'summary.json').read_text())['rounds']
    assert [row['round'] for row in rounds] == [0, 1]
    assert ran.stdout.splitlines()[-1].startswith('01 ')
    lm, _ = selfrew.load(str(tmp_path / 'out'), mesh={})
    assert lm.config.lora == 0
