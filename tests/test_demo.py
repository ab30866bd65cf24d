import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_demo_reaches_its_ap(tmp_path):
    """The main job of the README, in a folder of its own."""
    result = subprocess.run(
        [sys.executable, ROOT / 'tools/demo.py'],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        timeout=1800,
    )
    assert result.returncode == 0
    box, mask = (
        float(re.search(rf'^{name} +([\d.]+)', result.stdout, re.M)[1])
        for name in ('box', 'mask')
    )
    print(f'box AP {box}, mask AP {mask}')
    assert box >= 0.65
    assert mask >= 0.68
    pictures = re.search(r'^pictures +(\S+)', result.stdout, re.M)[1]
    assert len(list((tmp_path / pictures).glob('*.png'))) == 80
    for name in ('curves.png', 'routing.png', 'routing.html'):
        assert (
            tmp_path / 'work_dirs/maskrcnn_biformer_digits' / name
        ).is_file()
