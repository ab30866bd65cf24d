"""Metrics with annotations of other images than those that are read."""

import copy
import json
from types import SimpleNamespace

import pytest
from mmdet.evaluation import CocoMetric, CrowdHumanMetric
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, init_default_scope

from mmbiformer.datacheck import evaluators
from mmbiformer.datacheck.evaluators import check_evaluator
from mmbiformer.utils.errors import ConfigError


@pytest.fixture
def check(coco):
    """Evaluate with the annotations that a change makes."""
    coco.save()
    init_default_scope('mmdet')
    dataset = DATASETS.build(dict(coco.dataset, test_mode=True))

    def check(change=lambda content: None, name='other.json'):
        content = copy.deepcopy(coco.content)
        change(content)
        path = coco.folder / name
        path.write_text(json.dumps(content))
        metric = CocoMetric(ann_file=str(path))
        loop = SimpleNamespace(
            evaluator=Evaluator([metric]),
            dataloader=SimpleNamespace(dataset=dataset),
        )
        settings = dict(type='CocoMetric', ann_file=str(path))
        check_evaluator(loop, settings, 'val_evaluator')

    return check


def move_boxes(content):
    for index, one in enumerate(content['annotations']):
        one['bbox'] = [30 + index, 1, 9, 9]


def rename(content):
    for image in content['images']:
        image['file_name'] = f'copy_{image["file_name"]}'
    for one in content['annotations']:
        one['bbox'][0] += 2


def drop_annotations(content):
    content['annotations'].clear()


@pytest.mark.parametrize('change', [rename, drop_annotations])
def test_what_may_differ(check, change):
    check(change)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda content: [
                image.update(id=image['id'] + 2) for image in content['images']
            ],
            "other.json' has no image with the id 0, which is .*0.jpg",
        ),
        (lambda content: content['images'].pop(), 'no image with the id 3'),
        (move_boxes, 'only 0 of 8 boxes .* id 3 is .*3.jpg in the data set'),
        (
            lambda content: content['categories'].reverse(),
            "order of its 2 classes; .* another order: 'dog', 'cat'",
        ),
        (
            lambda content: content['categories'].pop(),
            "it has 1 of them, .*: 'dog'",
        ),
    ],
)
def test_other_images(check, change, message):
    with pytest.raises(ConfigError, match=message) as error:
        check(change)
    assert str(error.value).startswith('val_evaluator.ann_file=')


def test_the_same_file_is_not_compared(check):
    check(move_boxes, name='a.json')


def test_more_images_are_logged(check, monkeypatch):
    logged = []
    monkeypatch.setattr(
        evaluators, 'print_log', lambda text, **_: logged.append(text)
    )
    image = dict(id=9, file_name='9.jpg', width=60, height=40)
    check(lambda content: content['images'].append(image))
    (text,) = logged
    assert 'has 1 images that the data set does not have' in text


class Persons:
    """A data set of two images."""

    ann_file = 'b.odgt'

    def __len__(self):
        return 2

    def get_data_info(self, index):
        return dict(img_id='ab'[index])


@pytest.mark.parametrize('ids', ['ab', 'abc', 'ba'])
def test_the_order_of_crowd_human(tmp_path, ids):
    path = tmp_path / 'a.odgt'
    path.write_text(''.join(json.dumps(dict(ID=one)) + '\n' for one in ids))
    loop = SimpleNamespace(
        evaluator=Evaluator([CrowdHumanMetric(ann_file=str(path))]),
        dataloader=SimpleNamespace(dataset=Persons()),
    )
    settings = [dict(ann_file=str(path))]
    if ids != 'ba':
        check_evaluator(loop, settings, 'test_evaluator')
        return
    with pytest.raises(ConfigError, match="image 'b' where .* has 'a'"):
        check_evaluator(loop, settings, 'test_evaluator')
