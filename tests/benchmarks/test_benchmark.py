"""Speed and memory side by side."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from measure import Candidate, Setting, compare, count_kept_bytes
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'configs/detection/maskrcnn_biformer_digits.py')
TOOL = ROOT / 'benchmarks/benchmark.py'
MIB = 2**20


def test_peak_memory_is_the_highest_not_the_last():
    # A process of its own: how much freed memory stays with a process depends
    # on what it did before.
    code = """
import torch
from measure import PeakMemory
torch.ones(2**22).sum()
with PeakMemory('cpu') as memory:
    for mib in (16, 64, 32):
        torch.ones(mib * 2**18)
print(memory.peak)
"""
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT / 'benchmarks',
        check=True,
        capture_output=True,
        text=True,
    )
    # Freed memory may stay with the process, but not all of it.
    assert 63 * MIB <= int(result.stdout) < 100 * MIB


def test_kept_bytes_are_those_of_distinct_memory_without_weights():
    model = nn.Linear(8, 8)
    x = torch.rand(100, 8)
    with count_kept_bytes(model) as kept:
        y = model(x)
        # Keeps its input, twice in the same memory; exp keeps its output.
        loss = (y * y.view(8, 100).view(100, 8)).exp().sum()
    assert sum(kept.values()) == 3 * x.nbytes
    loss.backward()


def test_tool_compares_backends(tmp_path, run_tool):
    out = [tmp_path / f'results.{suffix}' for suffix in ('json', 'md')]
    plot = tmp_path / 'plot.png'
    result = run_tool(
        '../benchmarks/benchmark.py',
        '--backbones', 'biformer-tiny:reference', 'biformer-tiny:sdpa',
        '--shapes', '96x128', '--train', '--repeat', 2, '--threads', 1,
        '--out', *out, '--plot', plot,
    )  # fmt: skip
    content = json.loads(out[0].read_text())
    reference, sdpa = content['results']
    assert reference['candidate'] == 'biformer-tiny:reference'
    assert reference['shape'] == [96, 128]
    assert (reference['n_win'], reference['ratio']) == (7, 1)
    assert len(sdpa['seconds']) == 2
    assert min(sdpa['seconds']) > 0
    assert reference['kept_bytes'] > sdpa['kept_bytes'] > MIB
    # The gradients of 12.6 M weights alone.
    assert sdpa['peak_bytes'] > 48 * MIB
    table = out[1].read_text()
    assert table in result.stdout
    assert '| 96×128 | biformer-tiny:sdpa ' in table
    assert plot.read_bytes().startswith(b'\x89PNG')


def test_a_model_that_fails_leaves_the_others():
    setting = Setting((64, 64), n_win=7)
    whole, broken = compare(
        [
            Candidate(CONFIG, is_config=True),
            Candidate(CONFIG, True, {'model.backbone.n_win': 0}),
        ],
        setting,
        repeat=1,
        timeout=300,
    )
    assert whole.error is None
    assert whole.ratio == 1
    assert whole.peak_bytes > 0
    assert 'n_win=0' in broken.error
    assert broken.seconds == []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'one of the arguments --backbones --configs'),
        (['--backbones', 'biformer'], "got 'biformer'"),
        (['--backbones', 'biformer-tiny:fast'], "got 'biformer-tiny:fast'"),
        (['--backbones', 'swin-tiny:native'], "got 'swin-tiny:native'"),
        (['--backbones', 'swin-tiny', 'swin-tiny'], 'given twice'),
        (['--backbones', 'swin-tiny', '--shapes', '1x2x3'], "got '1x2x3'"),
        (['--backbones', 'swin-tiny', '--n-win', '7', '8'], 'got 2 for 3'),
        (['--backbones', 'swin-tiny', '--repeat', '0'], "got '0'"),
        (['--backbones', 'swin-tiny', '--out', 'a.csv'], "got --out='a.csv'"),
        (['--backbones', 'swin-tiny', '--plot', 'a.md'], "got --plot='a.md'"),
        (['--backbones', 'swin-tiny', '--out', CONFIG], '.json or .md'),
        (['--configs', 'missing.py'], "config='missing.py' is not a file"),
        (['--configs', CONFIG, '--n-win', '7'], '--n-win is for --backbones'),
    ],
)
def test_tool_names_bad_input(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert message in str(end.value) + capsys.readouterr().err


def test_tool_keeps_files_that_exist(tmp_path, monkeypatch):
    out = tmp_path / 'results.md'
    out.write_text('mine')
    arguments = ['--backbones', 'swin-tiny', '--out', str(out)]
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *arguments])
    with pytest.raises(SystemExit, match='exists'):
        runpy.run_path(str(TOOL), run_name='__main__')
    assert out.read_text() == 'mine'
