"""The Triton backend without a GPU, and the door to it."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.utils import digit_version
from torch._subclasses import FakeTensorMode

from mmbiformer.ops import routed_attention
from mmbiformer.ops.backends import triton
from mmbiformer.utils.errors import ConfigError

HERE = Path(__file__).parent
HAS_WHEEL = sys.platform == 'linux' and platform.machine() == 'x86_64'

# Triton 3.2, which comes with torch 2.6: its interpreter does not take numpy
# 2.4, and its compiler has another interface.
IS_OLD = triton.is_available() and digit_version(
    importlib.metadata.version('triton')
) < digit_version('3.3')

needs_triton = pytest.mark.skipif(
    IS_OLD or (not HAS_WHEEL and not triton.is_available()),
    reason='no Triton for this platform, or an old one',
)


def run_tests(name, *arguments, **environment):
    """Run a file of tests in a process of its own."""
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    result = subprocess.run(
        [
            sys.executable, '-m', 'pytest', HERE / name, '-q',
            '-p', 'no:cacheprovider', *arguments,
        ],
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
        env={**env, **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-8000:]


@needs_triton
def test_in_the_interpreter():
    run_tests('triton_interpreted.py', TRITON_INTERPRET='1')


@needs_triton
def test_compiled():
    run_tests('triton_compiled.py', '-m', 'not slow')


@pytest.mark.slow
@needs_triton
def test_compiled_for_all_types_and_devices():
    run_tests('triton_compiled.py', '-m', 'slow')


def make_inputs():
    q = torch.rand(1, 2, 2, 16)
    return q, q, q, torch.zeros(1, 4, 1, dtype=torch.long), 1, 1.0


def test_a_missing_triton_is_told(monkeypatch):
    monkeypatch.setattr(triton, '_INSTALLED', False)
    with pytest.raises(ConfigError, match="'triton' needs Triton.*'auto'"):
        routed_attention(*make_inputs(), 'triton')
    assert routed_attention(*make_inputs(), 'auto').isfinite().all()


@pytest.mark.parametrize(
    ('is_on', 'installed', 'chosen'),
    [(True, True, 'triton'), (True, False, 'sdpa'), (False, True, 'sdpa')],
)
def test_auto_takes_it_on_gpus_behind_a_switch(
    monkeypatch, is_on, installed, chosen
):
    door = sys.modules['mmbiformer.ops.routed_attention']
    monkeypatch.setattr(triton, '_INSTALLED', installed)
    monkeypatch.setattr(triton, 'AUTO_ON_CUDA', is_on)
    for name in ('sdpa', 'triton'):
        monkeypatch.setitem(
            door._BACKENDS, name, lambda *inputs, name=name: name
        )
    with FakeTensorMode():
        q = torch.empty(1, 2, 2, 16, device='cuda')
        routing = torch.empty(1, 4, 1, dtype=torch.long, device='cuda')
        assert routed_attention(q, q, q, routing, 1, 1.0) == chosen
    assert routed_attention(*make_inputs()).shape == (1, 2, 2, 16)


@pytest.mark.parametrize(
    ('capability', 'supported'), [((7, 5), False), ((8, 0), True)]
)
def test_older_gpus_are_left_to_sdpa(monkeypatch, capability, supported):
    monkeypatch.setattr(triton, '_capability', lambda index: capability)
    with FakeTensorMode():
        q = torch.empty(1, 2, 2, 16, device='cuda')
        routing = torch.empty(1, 4, 1, dtype=torch.long, device='cuda')
        reason = triton.why_not(q, routing, 1, 1.0)
    assert (reason is None) is supported
