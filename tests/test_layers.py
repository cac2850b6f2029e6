"""The house: a module imports from strictly lower layers, and never sideways."""

import ast
import pathlib

import selfrew

ROOT = pathlib.Path(selfrew.__file__).parent
LAYERS = {
    'types': 0, 'answers': 0, 'rows': 0, 'novelty': 0, 'sizes': 0, 'chips': 0, 'hlo': 0, 'hosts': 0, 'sharding': 0, 'models': 1, 'losses': 1, 'text': 1,
    'tasks': 1, 'journal': 1, 'optimizers': 1, 'lm': 2, 'generate': 2, 'likelihood': 2, 'encode': 3, 'update': 4,
    'prompts': 5, 'samplers': 5, 'scorers': 5, 'pairs': 5, 'parts': 6,
    'stage': 6, 'evals': 7, 'checkpoint': 7, 'log': 7, 'report': 7, 'loop': 8, 'export': 8, 'main': 9, 'api': 9,
    'plan': 9,
}  # fmt: skip


def _room(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix('.py')


def _imported(path: pathlib.Path):
    """The rooms of selfrew that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split('.')[0] == 'selfrew':
            parts = node.module.split('.')
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [a.name.split('.')[1] for a in node.names if a.name.startswith('selfrew.')]


def test_every_module_has_a_layer():
    rooms = {_room(p) for p in ROOT.rglob('*.py')} - {'__init__'}
    assert rooms == set(LAYERS)


def test_imports_only_go_down():
    wrong = []
    for path in ROOT.rglob('*.py'):
        room = _room(path)
        for other in _imported(path):
            if other != room and room != '__init__' and LAYERS[other] >= LAYERS[room]:
                wrong.append(f'{path.relative_to(ROOT)} (layer {LAYERS[room]}) imports {other} (layer {LAYERS[other]})')
    assert not wrong, '\n'.join(wrong)


def test_types_import_nothing_of_the_house():
    assert not list(_imported(ROOT / 'types.py'))


def test_configs_import_no_jax():
    for path in (ROOT.parent / 'configs').rglob('*.py'):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert {name.split('.')[0] for name in names} <= {'ml_collections', 'configs', 'copy'}, path
