"""A config whose framework is not installed."""

import importlib.util

import pytest
from shipped import ROOT

from mmbiformer.utils.config import read_config
from mmbiformer.utils.errors import ConfigError


@pytest.mark.parametrize('inherits', [True, False])
def test_what_to_install_is_said_in_one_line(monkeypatch, tmp_path, inherits):
    def find_spec(name, *args, find=importlib.util.find_spec):
        return None if name == 'mmpretrain' else find(name, *args)

    monkeypatch.setattr(importlib.util, 'find_spec', find_spec)
    path = ROOT / 'configs/classification/biformer_small.py'
    if not inherits:
        path = tmp_path / 'own.py'
        path.write_text("default_scope = 'mmpretrain'\nmodel = dict()\n")
    with pytest.raises(ConfigError) as error:
        read_config(str(path))
    message = str(error.value)
    assert message.startswith(f'config={str(path)!r} is for classification')
    assert 'needs mmpretrain' in message
    assert 'docs/classification.md' in message
    assert '\n' not in message
