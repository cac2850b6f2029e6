"""The notebook runs from its first cell to its last."""

import json
import pathlib

import pytest
from real_model import smollm2

import selfrew

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'experiments' / 'colab' / 'your_model.ipynb'


@pytest.mark.slow
def test_the_notebook_trains_and_exports_a_model(tmp_path, monkeypatch, capsys):
    """SmolLM2 where it can be made, else the tiny base."""
    model, _ = smollm2()
    monkeypatch.setenv('MODEL', model.folder if model else 'tiny')
    monkeypatch.setenv('FOLDER', str(tmp_path))
    cells = json.loads(NOTEBOOK.read_text())['cells']
    names = {}
    for cell in cells:
        if cell['cell_type'] == 'code':
            assert not cell['outputs'], 'the notebook is kept without outputs'
            exec(compile(''.join(cell['source']), str(NOTEBOOK), 'exec'), names)
    assert len(names['pairs']) >= 2
    assert all(pair['scores'][0] > pair['scores'][1] for pair in names['pairs'])
    assert [row['round'] for row in names['rounds']] == [0, 1]
    lm, params = selfrew.load(str(tmp_path / 'out'), mesh={})
    (rollout,) = lm.generate(params, ['What is a river?'], n=1, temperature=0.0, max_tokens=24)
    assert rollout.responses[0].text in capsys.readouterr().out
