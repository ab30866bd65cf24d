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


def test_a_loader_that_is_not_there(coco):
    with pytest.raises(ConfigError, match="no 'other_dataloader'"):
        check_split(coco.cfg, 'other')
