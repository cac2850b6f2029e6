"""A package imports only from strictly lower layers, and no module uses another's private names."""

import ast
import pathlib

import pytest

import selfrew

ROOT = pathlib.Path(selfrew.__file__).parent
LAYERS = {
    'types': 0,
    'mesh': 1,
    'models': 2,
    'tasks': 2,
    'engine': 3,
    'shelves': 4,
    'running': 5,
    'loop': 6,
    'export': 6,
    'main': 7,
    'api': 7,
    'plan': 7,
    'verdict': 7,
    'check': 7,
    '__main__': 7,
}
FILES = sorted(ROOT.rglob('*.py'))


def _top_name(path: pathlib.Path) -> str:
    """The module or package at the top of selfrew that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix('.py')


def _folder_name(path: pathlib.Path) -> str:
    return path.parent.name


def _imports(path: pathlib.Path):
    """Yields (module or package at the top, imported name) of each import of selfrew in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: a relative import'
            package, *parts = (node.module or '').split('.')
            for alias in node.names if package == 'selfrew' else ():
                yield (parts or [alias.name])[0], alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith('selfrew.'):
                    yield alias.name.split('.')[1], alias.name.split('.')[-1]


def test_the_top_is_a_map_of_rooms_and_doors():
    """A dozen names, and beside them those of the commands, which are promised to their users."""
    names = {p.name.removesuffix('.py') for p in ROOT.iterdir()} - {'__init__', '__pycache__'}
    assert names == set(LAYERS) and len(names) <= 15


def test_imports_only_go_down():
    wrong = []
    for path in FILES:
        top = _top_name(path)
        for other, _ in _imports(path):
            if other != top and top != '__init__' and LAYERS[other] >= LAYERS[top]:
                where = path.relative_to(ROOT)
                wrong.append(f'{where} (layer {LAYERS[top]}) imports {other} ({LAYERS[other]})')
    assert not wrong, '\n'.join(wrong)


def test_no_module_imports_a_private_name_of_another():
    wrong = [
        f'{path.relative_to(ROOT)} imports {name} of {other}'
        for path in FILES
        for other, name in _imports(path)
        if name.startswith('_')
    ]
    assert not wrong, '\n'.join(wrong)


def _private_uses(path: pathlib.Path):
    """Private attributes that a file uses of modules of selfrew, such as `trainer._step`."""
    tree = ast.parse(path.read_text())
    modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('selfrew')
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            is_private = node.attr.startswith('_') and not node.attr.startswith('__')
            is_private &= node.attr not in ('_replace', '_asdict', '_fields')  # of namedtuples
            if is_private and node.value.id in modules:
                yield f'{node.value.id}.{node.attr}'


def test_no_module_uses_private_names_of_another():
    wrong = [f'{p.relative_to(ROOT)}: {use}' for p in FILES for use in _private_uses(p)]
    assert not wrong, '\n'.join(wrong)


PACKAGES = [path for path in FILES if path.name == '__init__.py' and path.parent != ROOT]


@pytest.mark.parametrize('init', PACKAGES, ids=_folder_name)
def test_a_package_says_what_lives_there_and_what_may_be_imported(init):
    """Its docstring: what lives there, what may be imported from it, what it may import."""
    text = ast.get_docstring(ast.parse(init.read_text())) or ''
    assert 'Import from it:' in text and 'It imports:' in text, text


@pytest.mark.parametrize('init', PACKAGES, ids=_folder_name)
def test_a_package_imports_what_it_says(init):
    """Its docstring names exactly the packages and modules at the top that its files import."""
    text = ast.get_docstring(ast.parse(init.read_text())) or ''
    imports_line = text.split('It imports:')[1].split('.')[0].strip()
    files = [path for path in FILES if path.is_relative_to(init.parent)]
    imported = {other for path in files for other, _ in _imports(path)} - {_top_name(init)}
    ordered = sorted(imported, key=list(LAYERS).index)
    assert imports_line == (', '.join(ordered) or 'nothing of selfrew')


def test_types_import_nothing_of_selfrew():
    assert not list(_imports(ROOT / 'types.py'))


def test_configs_import_no_jax():
    for path in (ROOT.parent / 'configs').rglob('*.py'):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module)
        assert {name.split('.')[0] for name in names} <= {'ml_collections', 'configs', 'copy'}, path
