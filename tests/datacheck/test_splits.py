import pytest
from small_datasets import NAMES, train

from mmbiformer.datacheck.splits import check_split
from mmbiformer.utils.errors import ConfigError


def test_good_data(coco, pairs):
    coco.save()
    report = check_split(coco.cfg, 'train', workers=2)
    assert not report.problems
    assert report.counts['objects used'] == 8
    assert report.classes == {'cat': (4, 4), 'dog': (4, 4)}
    assert 'no problems found' in report.text()
    assert train(coco) == NAMES
    report = check_split(pairs.cfg, 'train', workers=2)
    assert not report.problems
    assert report.classes['c'] == (0.5, 4)
    assert train(pairs) == NAMES


def test_other_data_sets_are_refused(coco):
    coco.dataset.type = 'VOCDataset'
    coco.dataset.data_prefix = dict(sub_data_root='images')
    coco.save()
    coco.dataset.metainfo = dict(classes=('cat', 'dog'))
    message = '^train_dataloader: .*VOCDataset are not supported'
    with pytest.raises(ConfigError, match=message):
        check_split(coco.cfg, 'train')
    with pytest.raises(ConfigError, match="no 'other_dataloader'"):
        check_split(coco.cfg, 'other')
