"""tools/train.py and tools/test.py on mmdet's panoptic recipes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import small_panoptic

ROOT = Path(__file__).resolve().parents[2]


def run(script, *arguments):
    """Run a tool where panopticapi can be imported; return its output."""
    paths = [*small_panoptic.import_paths(), os.environ.get('PYTHONPATH', '')]
    result = subprocess.run(
        [sys.executable, ROOT / 'tools' / script, *map(str, arguments)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize('name', small_panoptic.CONFIGS)
def test_training_and_testing(tmp_path, name):
    small_panoptic.write(tmp_path / 'data')
    config = tmp_path / 'config.py'
    small_panoptic.write_config(name, tmp_path / 'data', config)
    assert 'no problems found' in run(
        'misc/check_dataset.py', config, '--splits', 'train'
    )
    work_dir = tmp_path / 'work_dir'
    text = run('train.py', config, '--work-dir', work_dir)
    # Some of the recipes train by iterations.
    assert re.search(r'\(train\) (\[1\])?\[4/4\]', text)
    assert 'coco_panoptic/PQ' in text
    weights = work_dir / 'epoch_1.pth'
    text = run('test.py', config, weights, '--work-dir', work_dir)
    assert 'coco_panoptic/PQ' in text
