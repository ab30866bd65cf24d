"""Reading configs; what the tools make of them is tested with the tools."""

import inspect
import re

import pytest
import tiny_run
from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmengine.runner import runner as mmengine_runner

from mmbiformer.utils.config import (
    READ_KEYS,
    check_pretrained,
    check_weight_decay,
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


class TestOverrides:
    """What nothing reads is not set in silence."""

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / 'config.py'
        path.write_text("""
default_scope = 'mmdet'
model = dict(type='RetinaNet')
data_root = 'data/a/'
max_epochs = 3
note = 'mine'
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='a.json'))
""")
        return str(path)

    def test_what_mmengine_reads_is_known(self):
        source = inspect.getsource(mmengine_runner)
        keys = set(re.findall(r"(?<!\w)cfg\.get\(\s*'(\w+)'", source))
        assert {'sync_bn', 'train_cfg'} <= keys
        assert keys <= READ_KEYS

    @pytest.mark.parametrize(
        ('options', 'said'),
        [
            (dict(load_form='a.pth'), "'load_form' .*'load_from'"),
            (dict(resum=True), "'resum' .*'resume'"),
            (dict(optim_wraper=dict(a=1)), "'optim_wraper' .*'optim_wrapper'"),
            (
                {'optim_wraper.optimizer.lr': 1},
                r"optimizer\.lr: .*'optim_wrapper'",
            ),
            (dict(max_epochs=5), r'keeps its value, 3. Set train_cfg\.max_ep'),
            (
                dict(data_root='b/'),
                r'changes nothing.*Set train_dataloader\.dataset\.data_root',
            ),
        ],
    )
    def test_they_are_refused(self, path, options, said):
        with pytest.raises(ConfigError, match=f'^--cfg-options .*{said}'):
            read_config(path, options)

    @pytest.mark.parametrize(
        'options',
        [
            dict(load_from='a.pth', resume=True, work_dir='b', compile=True),
            {'max_epochs': 5, 'train_cfg.max_epochs': 5},
            dict(max_epochs=3),
            # A hook of the user may read these.
            dict(note='yours'),
            dict(threshold_of_mine=0.5),
            {'train_dataloader.batch_size': 4},
        ],
    )
    def test_others_are_not(self, path, options):
        cfg = read_config(path, options)
        for key, value in options.items():
            if '.' not in key:
                assert cfg[key] == value


@pytest.mark.parametrize(
    'paramwise',
    [
        dict(norm_decay_mult=0.0),
        dict(custom_keys={'head': dict(decay_mult=0.0)}),
    ],
)
def test_a_decay_that_is_scaled_must_be_set(paramwise):
    optimizer = dict(type='SGD', lr=0.1)
    wrapper = dict(optimizer=optimizer, paramwise_cfg=paramwise)
    with pytest.raises(ConfigError, match='decay_mult scales the weight'):
        check_weight_decay(Config(dict(optim_wrapper=wrapper)))
    optimizer['weight_decay'] = 0
    check_weight_decay(Config(dict(optim_wrapper=wrapper)))
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
    check_weight_decay(Config(dict(optim_wrapper=wrapper)))
