"""Objects that training skips, in data sets of any format."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from small_datasets import NAMES, assert_is_found, train
from small_voc import Voc

from mmbiformer.datacheck.objects import ObjectTally, box_problem
from mmbiformer.datacheck.splits import check_split
from mmbiformer.reliable.runner import CheckedRunner
from mmbiformer.utils.errors import DataError


@pytest.fixture
def voc(tmp_path):
    return Voc(tmp_path)


BAD_BOXES = [
    ('box without area', ('dog', 20, 20, 20, 30)),
    ('box without area', ('dog', 20, 30, 25, 20)),
    ('box outside the image', ('cat', 70, 10, 80, 20)),
    ('box partly outside the image', ('cat', 50, 10, 80, 20)),
]


@pytest.mark.parametrize(('kind', 'box'), BAD_BOXES)
def test_boxes_of_voc(voc, kind, box):
    voc.boxes[1].append(box)
    assert_is_found(voc, kind, 'JPEGImages/1.jpg, object 2')


def test_training_skips_bad_boxes_and_says_so_once(voc, monkeypatch):
    voc.boxes[1] += [('dog', 20, 20, 20, 30), ('cat', 70, 10, 80, 20)]
    voc.boxes[2] = [('dog', 20, 20, 20, 30), *voc.boxes[2]]
    voc.save()
    init_default_scope('mmdet')
    messages = []
    monkeypatch.setattr(
        'mmbiformer.datacheck.objects.print_log',
        lambda message, **_: messages.append(message),
    )
    loader = CheckedRunner.build_dataloader(voc.cfg.train_dataloader, seed=0)
    (message,) = messages
    assert '3 of 11 objects are skipped: ' in message
    assert '1.jpg (box without area)' in message
    assert '1.jpg (box outside the image)' in message
    for index in range(4):
        instances = loader.dataset.get_data_info(index)['instances']
        assert [one['bbox_label'] for one in instances] == [0, 1]
        sample = loader.dataset[index]['data_samples']
        assert len(sample.gt_instances) == 2


def test_evaluation_keeps_them(voc):
    voc.boxes[1].append(('dog', 20, 20, 20, 30))
    voc.dataset.test_mode = True
    voc.save()
    init_default_scope('mmdet')
    loader = CheckedRunner.build_dataloader(voc.cfg.train_dataloader, seed=0)
    assert len(loader.dataset.get_data_info(1)['instances']) == 3


def test_all_of_a_class_is_difficult(voc):
    voc.boxes = [[cat, (*dog, 'difficult')] for cat, dog in voc.boxes]
    error = assert_is_found(
        voc,
        'class whose objects are all skipped',
        "'dog', crowd or ignored: 4; iscrowd=1, difficult=1",
    )
    assert 'cat' not in error.split('class whose objects')[1]


def test_no_class_has_an_object(voc):
    voc.dataset.metainfo.classes = ('Cat', 'Dog')
    voc.save()
    report = check_split(voc.cfg, 'train', workers=1)
    assert report.fatal == ['no object']
    assert report.problems['category that is not a class'] == [
        "'cat', with 4 objects",
        "'dog', with 4 objects",
    ]
    with pytest.raises(DataError, match='is empty'):
        train(voc)
    voc.dataset.filter_cfg = None
    with pytest.raises(DataError, match='has no object; check that the names'):
        train(voc)


@pytest.mark.parametrize(
    ('text', 'where'),
    [
        ('<annotation><object>', 'Annotations/2.xml: ParseError'),
        (
            '<annotation><object><name>cat</name></object></annotation>',
            'Annotations/2.xml: AttributeError',
        ),
    ],
)
def test_a_broken_xml_file(voc, text, where):
    save = voc.save

    def save_and_break():
        save()
        (voc.folder / 'Annotations/2.xml').write_text(text)

    voc.save = save_and_break
    assert_is_found(voc, 'data set cannot be read', where)


@pytest.mark.parametrize(
    ('box', 'problem'),
    [
        ((0, 0, 0.5, 0.5), None),
        ((-5, -5, 1, 1), None),
        ((-5, -5, 0, 1), 'box outside the image'),
        ((1, 1, 0, 2), 'box without area'),
        ((np.nan, 1, 5, 5), 'box without area'),
    ],
)
def test_boxes(box, problem):
    assert box_problem(box, 40, 60) == problem
    # Other than COCO's, a data set need not know the size of its images.
    known = None if problem == 'box outside the image' else problem
    assert box_problem(box, None, None) == known


def test_a_rare_class_may_have_no_object_that_is_used():
    tally = ObjectTally()
    for _ in range(500):
        tally.add('common')
    for _ in range(4):
        tally.add('rare', 'box without area', (0, 0, 1, 0))
    assert list(tally.findings()) == []
    for _ in range(6):
        tally.add('rare', 'crowd or ignored')
    assert [kind for kind, _ in tally.findings()] == [
        'class whose objects are all skipped'
    ]
    for _ in range(600):
        tally.add('common', 'crowd or ignored')
    # Crowds are annotated on purpose.
    assert len(list(tally.findings())) == 1
    for _ in range(1200):
        tally.add('common', 'box without area', (0, 0, 1, 0))
    kind, where = list(tally.findings())[1]
    assert kind == 'most objects are skipped'
    assert where.startswith('1,204 of 2,310, box without area: 1,204, ')
    assert 'between 0 and 1' in where


def test_some_images_for_a_trial(voc):
    voc.boxes[0] = [('cat', 11, 11, 31, 31), ('dog', 5, 5, 30, 30, 1)]
    voc.dataset.indices = 1
    voc.save()
    assert train(voc) == NAMES[:1]
    report = check_split(voc.cfg, 'train', workers=1)
    assert not report.fatal


def test_a_class_may_be_skipped_in_one_of_several_data_sets(voc):
    whole = voc.dataset.to_dict()
    voc.boxes = [[cat, (*dog, 'difficult')] for cat, dog in voc.boxes]
    voc.boxes[3] = [('cat', 11, 11, 31, 31), ('dog', 5, 5, 30, 30)]
    voc.save()
    (voc.folder / 'most.txt').write_text('0\n1\n2\n')
    parts = [dict(whole, ann_file='most.txt'), whole]
    voc.cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=parts, ignore_keys=['dataset_type']
    )
    assert not check_split(voc.cfg, 'train', workers=1).fatal
    assert len(train(voc)) == 7
    voc.cfg.train_dataloader.dataset.datasets = parts[:1]
    with pytest.raises(DataError, match='class whose objects are all skip'):
        train(voc)
