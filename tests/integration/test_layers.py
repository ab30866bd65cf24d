"""The packages of mmbiformer import in one direction."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / 'mmbiformer'
# Each imports from those before it only.
LAYERS = (
    'utils',
    'ops',
    'checkpoints',
    'models',
    'visualization',
    'datacheck',
    'reliable',
    'inference',
    'deployment',
)


def imported_packages(path):
    """Yield the packages of mmbiformer that a module imports from."""
    folder = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = (node.module or '').split('.')
        if node.level:
            module = [*folder[: len(folder) - node.level + 1], *module]
        elif module[0] == 'mmbiformer':
            module = module[1:]
        else:
            continue
        if module and module[0] in LAYERS:
            yield module[0]


def test_no_package_imports_from_a_later_one():
    seen = set()
    for index, layer in enumerate(LAYERS):
        for path in (PACKAGE / layer).rglob('*.py'):
            for imported in imported_packages(path):
                seen.add(imported)
                assert LAYERS.index(imported) <= index, (path, imported)
    # What was looked for is there.
    assert {'ops', 'utils', 'checkpoints', 'models'} <= seen
    folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert folders == set(LAYERS)
