"""Reading configs; what the tools make of them is tested with the tools."""

import pytest
from mmengine.config import Config
from mmengine.model import PretrainedInit

from mmbiformer.utils.config import check_pretrained, read_config
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


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
def test_missing_weights_name_the_setting(kind):
    init_cfg = dict(type=kind, checkpoint='nowhere.pth')
    cfg = Config(dict(model=dict(backbone=dict(init_cfg=init_cfg))))
    with pytest.raises(MissingFileError) as error:
        check_pretrained(cfg)
    assert "model.backbone.init_cfg.checkpoint='nowhere.pth'" in str(
        error.value
    )
    assert 'model.backbone.init_cfg=None' in str(error.value)
