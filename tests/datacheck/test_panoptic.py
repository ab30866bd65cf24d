"""Panoptic data sets, whose masks are in maps of segments."""

import json
import sys
from pathlib import Path

import pytest
import small_panoptic
from mmengine.registry import init_default_scope
from small_datasets import truncate

from mmbiformer.datacheck.checks import check_classes, check_data
from mmbiformer.datacheck.splits import check_split
from mmbiformer.reliable.runner import CheckedRunner
from mmbiformer.utils.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def panopticapi(monkeypatch):
    for path in small_panoptic.import_paths():
        monkeypatch.syspath_prepend(path)
    yield
    for name in [one for one in sys.modules if one.startswith('panopticapi')]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def make(tmp_path):
    """Write the data set, and return the config of a name."""

    def make(name=small_panoptic.CONFIGS[0]):
        small_panoptic.write(tmp_path / 'data')
        out = tmp_path / 'config.py'
        return small_panoptic.write_config(name, tmp_path / 'data', out)

    return make


def folder_of(cfg):
    return Path(cfg.train_dataloader.dataset.data_root)


def read(cfg):
    """Read the data as tools/train.py does."""
    init_default_scope('mmdet')
    for check in (check_data, check_classes):
        check(cfg, ['train_dataloader', 'val_dataloader'])
    return list(CheckedRunner.build_dataloader(cfg.train_dataloader, seed=0))


@pytest.mark.parametrize('name', small_panoptic.CONFIGS)
def test_upstream_recipes_are_taken(make, name):
    cfg = make(name)
    for split in ('train', 'val'):
        report = check_split(cfg, split, workers=1)
        assert not report.problems
        assert report.classes['disc'] == (4, 4)
    for batch in read(cfg):
        (sample,) = batch['data_samples']
        assert sample.gt_instances.masks.masks.sum() > 1500
        assert set(sample.gt_sem_seg.sem_seg.unique().tolist()) == {0, 1, 2}
    head = 'panoptic_head' if 'panoptic_head' in cfg.model else 'semantic_head'
    cfg.model[head].num_stuff_classes = 2
    with pytest.raises(ConfigError, match=f'model.{head}.*3 names, 2 of thin'):
        read(cfg)


def test_a_map_of_segments_that_is_broken(make):
    cfg = make()
    path = folder_of(cfg) / 'segments/1.png'
    truncate(path)
    report = check_split(cfg, 'train', workers=1)
    (where,) = report.problems['broken label map']
    assert str(path) in where
    path.unlink()
    report = check_split(cfg, 'train', workers=1)
    assert report.problems['missing label map'] == [str(path)]


def test_stuff_before_things(make):
    """mmdet would learn the stuff as things."""
    cfg = make()
    path = folder_of(cfg) / 'panoptic.json'
    content = json.loads(path.read_text())
    content['categories'].insert(0, content['categories'].pop())
    path.write_text(json.dumps(content))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.metainfo.classes = ('sky', 'box', 'disc')
    with pytest.raises(DataError, match="the thing 'disc' follows stuff"):
        read(cfg)
    report = check_split(cfg, 'train', workers=1)
    assert 'follows stuff' in report.problems['data set cannot be read'][0]
