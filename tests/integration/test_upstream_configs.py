"""Configs that mmdet and mmseg ship are not refused."""

from collections import Counter
from pathlib import Path

import mmdet
import mmseg
import pytest
from mmengine.config import Config

from mmbiformer.datacheck.checks import check_classes
from mmbiformer.datacheck.splits import SPLITS


def find_problem(path):
    """Check the classes of a config; return what happened, and why."""
    try:
        cfg = Config.fromfile(path)
    except (FileNotFoundError, ImportError) as error:
        # Another package is missing, or a file that is not shipped.
        return 'not loaded', f'{type(error).__name__}: {error}'
    if 'model' not in cfg or 'default_scope' not in cfg:
        return 'no model', ''
    loaders = [f'{split}_dataloader' for split in SPLITS]
    try:
        check_classes(cfg, loaders)
    except ValueError as error:
        return 'refused', str(error)
    return 'taken', ''


@pytest.mark.slow
@pytest.mark.parametrize(('package', 'least'), [(mmdet, 750), (mmseg, 650)])
def test_the_classes_of_all_configs_are_taken(package, least, capsys):
    root = Path(package.__file__).parent / '.mim/configs'
    found = {
        str(path.relative_to(root)): find_problem(path)
        for path in sorted(root.rglob('*.py'))
        if '_base_' not in path.parts
    }
    counts = Counter(kind for kind, _ in found.values())
    with capsys.disabled():
        print(f'\n{package.__name__}: {dict(counts)}')
        for name, (kind, why) in found.items():
            if kind in ('not loaded', 'no model'):
                print(f'  {kind}: {name} {why[:100]}'.rstrip())
    assert not {
        name: why for name, (kind, why) in found.items() if kind == 'refused'
    }
    assert counts['taken'] >= least
    assert counts['not loaded'] <= 40
