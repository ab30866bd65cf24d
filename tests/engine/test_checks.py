import pytest
from mmengine.config import Config

from mmbiformer.engine.checks import check_data, check_pretrained


def make_config(**dataset):
    loader = dict(dataset=dict(type='CocoDataset', **dataset))
    return Config(
        dict(default_scope='mmdet', train_dataloader=loader, other=None)
    )


def test_missing_data_says_where_and_how(tmp_path):
    cfg = make_config(
        data_root=str(tmp_path), ann_file='a.json', data_prefix=dict(img='b/')
    )
    cfg.data_preparation = 'call the cook'
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ['train_dataloader'])
    assert f'ann_file: {tmp_path}/a.json' in str(error.value)
    assert f'data_prefix.img: {tmp_path}/b' in str(error.value)
    assert 'call the cook' in str(error.value)


def test_wrapped_data_sets_are_looked_into(tmp_path):
    inner = dict(data_root=str(tmp_path), ann_file='a.json')
    cfg = make_config(datasets=[dict(dataset=inner)])
    with pytest.raises(FileNotFoundError, match='dataset_prepare.html'):
        check_data(cfg, ['train_dataloader'])
    (tmp_path / 'a.json').touch()
    check_data(cfg, ['train_dataloader', 'other'])


def test_data_elsewhere_is_not_looked_for():
    cfg = make_config(data_root='s3://bucket/', ann_file='s3://bucket/a.json')
    check_data(cfg, ['train_dataloader'])


def test_a_config_without_the_dataloader():
    with pytest.raises(ValueError, match='test_dataloader'):
        check_data(make_config(), ['test_dataloader'])


def test_missing_weights_name_the_setting():
    init_cfg = dict(type='Pretrained', checkpoint='nowhere.pth')
    cfg = Config(dict(model=dict(backbone=dict(init_cfg=init_cfg))))
    with pytest.raises(FileNotFoundError) as error:
        check_pretrained(cfg)
    assert "model.backbone.init_cfg.checkpoint='nowhere.pth'" in str(
        error.value
    )
    assert 'model.backbone.init_cfg=None' in str(error.value)
