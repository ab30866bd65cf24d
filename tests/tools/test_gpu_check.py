"""tools/analysis_tools/gpu_check.py."""

import json
import re
import runpy
from pathlib import Path

import cv2
import pytest
import torch

from mmbiformer.ops.backends import triton

ROOT = Path(__file__).resolve().parents[2]
TOOL = 'analysis_tools/gpu_check.py'


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(ROOT / 'tools' / TOOL)


@pytest.mark.slow
@pytest.mark.skipif(not triton.is_available(), reason='needs Triton')
def test_all_of_it_in_the_interpreter(run_tool, tmp_path):
    out = tmp_path / 'new/check'
    result = run_tool(TOOL, '--interpret', '--out', out)
    report = json.loads(out.with_suffix('.json').read_text())
    assert {*report['results']} == {
        'correctness', 'speed', 'skew', 'backbone', 'share', 'tiles'
    }  # fmt: skip
    for rows in report['results'].values():
        assert rows
        for row in rows:
            assert 'error' not in row
    assert report['verdict'].startswith('NONE: all 3 checks')
    assert report['verdict'] in result.stdout
    text = out.with_suffix('.md').read_text()
    assert report['verdict'] in text
    assert '| tiny | 2 | float16 |' in text
    assert cv2.imread(str(out.with_suffix('.png'))).shape[1] == 1650
    again = run_tool(TOOL, '--interpret', '--out', out, check=False)
    assert again.returncode == 1
    assert 'exists' in again.stderr


def verdict(tool, correctness, speed):
    check = tool['Check'](tool['TINY'], None, 0)
    check.rows = dict(correctness=correctness, speed=speed)
    return tool['verdict'](check, interpreted=False)


@pytest.mark.parametrize(
    ('correctness', 'speed', 'expected'),
    [
        ([{'passed': True}], [{'ratio': 0.5}], 'YES: all 1 checks'),
        ([{'passed': False}], [{'ratio': 0.5}], 'NO: 1 of 1 checks'),
        ([{'error': 'out of memory'}], [{'ratio': 0.5}], 'NO: 1 of 1 checks'),
        ([], [], 'NO: 0 of 0 checks'),
        ([{'passed': True}], [{'ratio': 1.2}], 'NOT YET: of 1 .*, 1 are slow'),
        ([{'passed': True}], [{'error': 'no'}], 'NOT YET: .* 1 are missing'),
    ],
)
def test_the_verdict(tool, correctness, speed, expected):
    text = verdict(tool, correctness, speed)
    assert re.match(expected, text)
    # The switch that it names is there.
    assert 'AUTO_ON_CUDA' in text
    assert triton.AUTO_ON_CUDA in (False, True)


def test_wrong_results_are_found(tool, monkeypatch):
    """A backend that is wrong, or differs in two runs, does not pass."""
    check = tool['Check'](tool['TINY'], torch.device('cpu'), 0)
    layer = tool['TINY_LAYER']
    monkeypatch.setattr(triton, 'why_not', lambda *inputs: None)
    attend = tool['routed_attention']
    shift = iter([0.0, 0.0, 0.1, 0.1, 0.0, 0.1])

    def wrong(*inputs):
        name = inputs[-1]
        out = attend(*inputs[:-1], 'sdpa' if name == 'triton' else name)
        return out + next(shift) if name == 'triton' else out

    monkeypatch.setitem(tool['attend'].__globals__, 'routed_attention', wrong)
    passed = [
        tool['check_errors'](check, layer, 1, 'float16', 'random')['passed']
        for _ in range(3)
    ]
    assert passed == [True, False, False]


def test_without_a_gpu(tool, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(triton, '_INSTALLED', True)
    monkeypatch.setattr('sys.argv', [TOOL, '--out', str(tmp_path / 'a/b')])
    with pytest.raises(SystemExit, match='gpu_check.py: error: torch finds'):
        tool['main']()
    assert not [*tmp_path.iterdir()]
