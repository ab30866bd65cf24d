"""Annotations that pycocotools evaluates with."""

import copy
import json

import numpy as np
import pytest
from mmdet.evaluation import CocoMetric
from mmengine.registry import DATASETS
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from toy import toy_runner

from mmbiformer.datacheck import coco_evaluation
from mmbiformer.datacheck.coco_evaluation import check_metric, needs_info
from mmbiformer.datacheck.splits import check_split
from mmbiformer.utils.errors import DataError


def change(**values):
    return lambda item: item.update(values)


def remove(key):
    return lambda item: item.pop(key)


PROBLEMS = [
    ('object without iscrowd', remove('iscrowd'), 'bbox'),
    ('object without iscrowd', change(iscrowd=None), 'bbox'),
    ('object that has no mask to evaluate', remove('segmentation'), 'segm'),
    ('object that has no mask to evaluate', change(segmentation=[]), 'segm'),
    (
        'object that has no mask to evaluate',
        change(segmentation=[[10, 10, 30, 30]]),
        'segm',
    ),
    (
        'polygons in another form',
        change(segmentation=[10, 10, 30, 10, 30, 30]),
        'segm',
    ),
    (
        'polygons in another form',
        change(segmentation=[[10, 10], [30, 10], [30, 30]]),
        'segm',
    ),
    ('no object to evaluate', change(iscrowd=1), 'bbox'),
]


@pytest.fixture
def evaluated(coco):
    """The data set, evaluated; stock evaluation, and ours."""
    coco.cfg.val_dataloader = copy.deepcopy(coco.cfg.train_dataloader)
    coco.cfg.val_dataloader.dataset.test_mode = True

    def check(metric):
        coco.save()
        path = str(coco.folder / 'a.json')
        coco.cfg.val_evaluator = dict(
            type='CocoMetric', ann_file=path, metric=metric
        )
        report = check_split(coco.cfg, 'val', workers=1)
        built = CocoMetric(ann_file=path, metric=metric)
        built.dataset_meta = dict(classes=('cat', 'dog'))
        return built, report

    return coco, check


def evaluate(metric):
    """Let mmdet's metric evaluate a perfect prediction."""
    image = metric._coco_api.dataset['images'][1]
    mask = np.zeros((image['height'], int(image['width'])), np.uint8, 'F')
    mask[10:30, 10:30] = 1
    prediction = dict(
        img_id=image['id'],
        bboxes=np.array([[10, 10, 30, 30]], float),
        scores=np.ones(1),
        labels=np.zeros(1, int),
        masks=[mask_utils.encode(mask)],
    )
    result = metric.compute_metrics([(dict(img_id=image['id']), prediction)])
    return result[f'{metric.metrics[0]}_mAP']


@pytest.mark.parametrize(('kind', 'harm', 'metric'), PROBLEMS)
def test_what_cannot_be_evaluated(evaluated, kind, harm, metric):
    coco, check = evaluated
    for item in coco.content['annotations']:
        harm(item)
    built, report = check(metric)
    assert kind in report.fatal
    with pytest.raises(DataError, match=kind):
        check_metric(built)
    # mmdet fails, or has nothing to evaluate.
    try:
        value = evaluate(built)
    except Exception:
        value = -1
    assert value == -1


def test_what_can_be_evaluated(evaluated):
    coco, check = evaluated
    coco.content.update(info={})
    for item in coco.content['annotations']:
        item['area'] = 0
    for image in coco.content['images']:
        image['width'] = float(image['width'])
    # Not of a class, and in an image that is not there.
    coco.content['categories'].append(dict(id=9, name='bird'))
    coco.content['annotations'].append(
        dict(id=90, image_id=0, category_id=9, bbox=[1, 1, 2, 2], area=4)
    )
    coco.content['annotations'].append(
        dict(id=91, image_id=7, category_id=5, bbox=[1, 1, 2, 2], area=4)
    )
    built, report = check('segm')
    check_metric(built)
    assert not [kind for kind in report.fatal if 'evaluat' in kind]
    # One of four cats, and none of the dogs.
    assert evaluate(built) > 0.1
    assert report.problems['object with the id 0']


def test_a_file_without_info(evaluated, monkeypatch):
    coco, check = evaluated
    built, _ = check('bbox')
    if not needs_info():
        check_metric(built)
    monkeypatch.setattr(coco_evaluation, 'needs_info', lambda: True)
    built, report = check('bbox')
    assert 'no info in the annotations' in report.fatal
    with pytest.raises(DataError, match='no info in the annotations'):
        check_metric(built)
    built._coco_api.dataset['info'] = {}
    check_metric(built)


def test_versions_that_need_info(monkeypatch):
    assert needs_info.__wrapped__() in (True, False)
    load = COCO.loadRes

    def load_as_before(self, results):
        self.dataset['info']
        return load(self, results)

    monkeypatch.setattr(COCO, 'loadRes', load_as_before)
    assert needs_info.__wrapped__()


def test_metrics_that_read_no_file_are_accepted(evaluated):
    coco, _ = evaluated
    check_metric(CocoMetric(metric='bbox'))
    check_metric(json)


@pytest.mark.parametrize('testing', [False, True])
def test_a_run_ends_before_its_first_iteration(
    coco, tmp_path, monkeypatch, testing
):
    for item in coco.content['annotations']:
        del item['iscrowd']
    coco.save()
    metainfo = dict(classes=('cat', 'dog'))
    monkeypatch.setattr(DATASETS.get('ToyDataset'), 'metainfo', metainfo)
    evaluator = dict(
        type='mmdet.CocoMetric', ann_file=str(coco.folder / 'a.json')
    )
    loader = dict(dataset=dict(type='ToyDataset'), batch_size=1, num_workers=0)
    loader.update(sampler=dict(type='DefaultSampler', shuffle=False))
    runner = toy_runner(
        tmp_path / 'run',
        val_evaluator=evaluator,
        test_evaluator=evaluator,
        test_dataloader=loader,
        test_cfg={},
    )
    with pytest.raises(DataError, match='object without iscrowd: object 0'):
        runner.test() if testing else runner.train()
    assert not runner.started
