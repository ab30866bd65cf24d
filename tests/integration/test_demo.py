"""The main job of the README for each task, in one folder of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


TASKS = {
    'maskrcnn': {
        'maskrcnn_biformer_digits': {'box AP': 0.65, 'mask AP': 0.68}
    },
    'retinanet': {'retinanet_biformer_digits': {'box AP': 0.60}},
    'sfpn': {
        'sfpn_biformer_digits': {'mIoU': 55},
        'sfpn_biformer_digits_finetune': {'mIoU': 65},
    },
    'upernet': {
        'upernet_biformer_digits': {'mIoU': 55},
        'upernet_biformer_digits_finetune': {'mIoU': 65},
    },
}


def run_demo(folder, task):
    """Run the demo; return the metrics by run."""
    result = subprocess.run(
        [sys.executable, ROOT / 'scripts/demo.py', '--task', task],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        timeout=3000,
    )
    assert result.returncode == 0
    table = result.stdout.split('On the validation images:\n')[1]
    measured, names = {}, []
    for line in table.split('\n\n')[0].splitlines():
        if line.startswith(' '):
            # Names hold a space: columns are two or more spaces apart.
            names = re.split(' {2,}', line.strip())
        else:
            run, *values = line.split()
            values = map(float, values)
            measured[run] = dict(zip(names, values, strict=True))
    print(measured)
    return measured


def assert_is_drawn(work_dir, pictures):
    found = list(work_dir.glob('test/pictures/**/*.png'))
    assert len(found) == pictures
    for name in ('curves.png', 'routing.png', 'routing.html'):
        assert (work_dir / name).is_file()


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_the_demo_reaches_its_accuracy(demo_folder, task):
    measured = run_demo(demo_folder, task)
    for name, metrics in TASKS[task].items():
        for metric, value in metrics.items():
            assert measured[name][metric] >= value
    assert_is_drawn(demo_folder / 'work_dirs' / list(TASKS[task])[-1], 80)


@pytest.mark.slow
@pytest.mark.classification
def test_a_detector_gains_from_the_classifier(demo_folder):
    pytest.importorskip('mmpretrain')
    measured = run_demo(demo_folder, 'classification')
    assert measured['biformer_digits']['top-1'] >= 88
    assert measured['biformer_digits']['top-5'] >= 98
    for metric in ('box AP', 'mask AP'):
        start = measured['maskrcnn_biformer_digits_pretrained'][metric]
        assert start > measured['maskrcnn_biformer_digits_half'][metric]
    assert_is_drawn(demo_folder / 'work_dirs/biformer_digits', 382)
