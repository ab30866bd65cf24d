"""Reading configs; what the tools make of them is tested with the tools."""

import pytest

from mmbiformer.utils.config import read_config


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('model = dict(\n', 'SyntaxError.*never closed'),
        ('model = dict(depth=depth)\n', "NameError.*'depth'"),
        ("_base_ = 'nowhere.py'\n", 'nowhere.py'),
    ],
)
def test_configs_that_cannot_be_read(tmp_path, text, said):
    config = tmp_path / 'config.py'
    config.write_text(text)
    with pytest.raises(ValueError, match=f'config=.*config.py.*{said}'):
        read_config(str(config))


def test_overrides_that_do_not_fit(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmdet'\nmodel = dict(depths=(1, 2))\n")
    with pytest.raises(ValueError, match='--cfg-options do not fit.*depths'):
        read_config(str(config), {'model.depths.x': 3})
