"""The main job of the README for each task, in one folder of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    'task, least',
    [
        (
            'maskrcnn',
            {'maskrcnn_biformer_digits': {'box AP': 0.65, 'mask AP': 0.68}},
        ),
        ('retinanet', {'retinanet_biformer_digits': {'box AP': 0.60}}),
        (
            'sfpn',
            {
                'sfpn_biformer_digits': {'mIoU': 55},
                'sfpn_biformer_digits_finetune': {'mIoU': 65},
            },
        ),
        (
            'upernet',
            {
                'upernet_biformer_digits': {'mIoU': 55},
                'upernet_biformer_digits_finetune': {'mIoU': 65},
            },
        ),
    ],
)
def test_the_demo_reaches_its_accuracy(demo_folder, task, least):
    result = subprocess.run(
        [sys.executable, ROOT / 'scripts/demo.py', '--task', task],
        cwd=demo_folder,
        stdout=subprocess.PIPE,
        text=True,
        timeout=3000,
    )
    assert result.returncode == 0
    table = result.stdout.split('On the validation scenes:')[1]
    header, *rows = re.split('\n+', table.strip('\n'))[: 1 + len(least)]
    # Names hold a space: columns are two or more spaces apart.
    names = re.split(' {2,}', header.strip())
    measured = {
        name: dict(zip(names, map(float, values), strict=True))
        for name, *values in map(str.split, rows)
    }
    print(measured)
    for name, metrics in least.items():
        for metric, value in metrics.items():
            assert measured[name][metric] >= value
    work_dir = demo_folder / 'work_dirs' / list(least)[-1]
    assert len(list(work_dir.glob('test/pictures/**/*.png'))) == 80
    for name in ('curves.png', 'routing.png', 'routing.html'):
        assert (work_dir / name).is_file()
