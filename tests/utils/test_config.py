"""Reading configs; what the tools make of them is tested with the tools."""

import pytest
import tiny_run
from mmengine.config import Config

from mmbiformer.utils.config import (
    check_pretrained,
    read_config,
    task_of,
    type_name,
)
from mmbiformer.utils.errors import ConfigError, MissingFileError


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
    with pytest.raises(ConfigError, match=f'config=.*config.py.*{said}'):
        read_config(str(config))


def test_overrides_that_do_not_fit(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmdet'\nmodel = dict(depths=(1, 2))\n")
    with pytest.raises(ConfigError, match='--cfg-options do not fit.*depths'):
        read_config(str(config), {'model.depths.x': 3})


def test_missing_weights_name_the_setting():
    init_cfg = dict(type='Pretrained', checkpoint='nowhere.pth')
    cfg = Config(dict(model=dict(backbone=dict(init_cfg=init_cfg))))
    with pytest.raises(MissingFileError) as error:
        check_pretrained(cfg)
    assert "model.backbone.init_cfg.checkpoint='nowhere.pth'" in str(
        error.value
    )
    assert 'model.backbone.init_cfg=None' in str(error.value)


def test_configs_in_pure_python(tmp_path):
    tiny_run.write(tmp_path, dict(train=1, val=1))
    path = tiny_run.write_pure_python(tmp_path)
    weights = """
from mmengine.model import PretrainedInit
model['backbone']['init_cfg'] = dict(type=PretrainedInit, checkpoint='a.pth')
"""
    path.write_text(path.read_text() + weights)
    cfg = read_config(str(path))
    assert isinstance(cfg.model.type, type)
    assert task_of(cfg) == 'segmentation'
    with pytest.raises(MissingFileError, match=r'init_cfg\.checkpoint='):
        check_pretrained(cfg)


def test_types_of_configs_have_names():
    assert type_name('mmdet.FasterRCNN') == type_name('FasterRCNN')
    assert type_name(Config) == 'Config'
    assert type_name(None) == ''
