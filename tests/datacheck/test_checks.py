from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmbiformer.datacheck.checks import (
    check_annotations,
    check_classes,
    check_data,
    check_labels,
)
from mmbiformer.utils.errors import ConfigError, DataError, MissingFileError


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
    with pytest.raises(MissingFileError) as error:
        check_data(cfg, ['train_dataloader'])
    assert f'ann_file: {tmp_path}/a.json' in str(error.value)
    assert f'data_prefix.img: {tmp_path}/b' in str(error.value)
    assert 'call the cook' in str(error.value)


def test_wrapped_data_sets_are_looked_into(tmp_path):
    inner = dict(data_root=str(tmp_path), ann_file='a.json')
    cfg = make_config(datasets=[dict(dataset=inner)])
    with pytest.raises(MissingFileError, match='dataset_prepare.html'):
        check_data(cfg, ['train_dataloader'])
    (tmp_path / 'a.json').touch()
    check_data(cfg, ['train_dataloader', 'other'])


def test_data_elsewhere_is_not_looked_for():
    cfg = make_config(data_root='s3://bucket/', ann_file='s3://bucket/a.json')
    check_data(cfg, ['train_dataloader'])


def test_a_config_without_the_dataloader():
    with pytest.raises(ConfigError, match='test_dataloader'):
        check_data(make_config(), ['test_dataloader'])


def test_classes_of_heads_and_data_are_compared():
    cfg = make_config(metainfo=dict(classes=('a', 'b')))
    head = dict(num_classes=2)
    cfg.model = dict(
        roi_head=dict(bbox_head=[head, dict(num_classes=3)], mask_head=head)
    )
    names = ['train_dataloader', 'other']
    with pytest.raises(ConfigError) as error:
        check_classes(cfg, names)
    assert 'model.roi_head.bbox_head.1.num_classes=3' in str(error.value)
    cfg.model.roi_head.bbox_head[1].num_classes = 2
    check_classes(cfg, names)
    # Without names of its own, it has those of its type.
    cfg.train_dataloader.dataset.metainfo = None
    with pytest.raises(ConfigError, match='CocoDataset has 80 names'):
        check_classes(cfg, names)
    cfg.train_dataloader.dataset.metainfo = dict(classes='digit')
    with pytest.raises(ConfigError, match=r"\('digit',\)"):
        check_classes(cfg, names)


def test_a_class_without_a_category_is_refused():
    data = SimpleNamespace(metainfo=dict(classes=('a', 'b')), cat_ids=[7])
    with pytest.raises(DataError, match='only 1 of the 2 names'):
        check_annotations(data, 'this data set')
    data.cat_ids = [7, 8]
    check_annotations(data, 'this data set')


def test_label_values():
    labels = torch.tensor([[0, 2], [255, 1]])
    check_labels(labels, 3, 255, 'a.png')
    with pytest.raises(DataError, match=r'a\.png.*\[2\].*0 to 1'):
        check_labels(labels, 2, 255, 'a.png')
