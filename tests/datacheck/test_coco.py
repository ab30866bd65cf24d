"""Annotation files in COCO's format."""

import pytest
from small_datasets import (
    HEIGHT,
    NAMES,
    assert_is_found,
    sample_of,
    train,
    turn,
)

from mmbiformer.datacheck.splits import check_split


def cut_json(coco):
    coco.save()
    path = coco.folder / 'a.json'
    path.write_text(path.read_text()[:-20])
    coco.save = lambda: None


def change(key, value):
    return lambda coco: coco.object.update({key: value})


ANNOTATIONS = [
    ('data set cannot be read', cut_json, 'a.json'),
    ('data set cannot be read', lambda coco: coco.content.pop('images'), ''),
    ('record without a key', lambda coco: coco.object.pop('area'), 'area'),
    ('record with an invalid value', change('bbox', [1, 2, 3]), ''),
    ('record with an invalid value', change('bbox', ['1', 2, 3, 4]), ''),
    (
        'record with an invalid value',
        change('bbox', [10, 10, float('inf'), 20]),
        '',
    ),
    ('duplicate object id', change('id', 3), ''),
    (
        'classes in a different order',
        lambda coco: coco.content['categories'].reverse(),
        "('dog', 'cat')",
    ),
    (
        'class without a category',
        lambda coco: coco.dataset.metainfo.update(classes=('cat', 'Dog')),
        'Dog',
    ),
    (
        'duplicate category',
        lambda coco: coco.content['categories'].append(dict(id=9, name='cat')),
        'cat',
    ),
    (
        'heads do not fit the classes',
        lambda coco: coco.cfg.model.roi_head.mask_head.update(num_classes=9),
        'mask_head.num_classes=9',
    ),
    (
        'missing file or folder',
        lambda coco: coco.dataset.data_prefix.update(img='elsewhere/'),
        'data_prefix.img',
    ),
    (
        'image size mismatch',
        lambda coco: turn(coco.folder / 'images/1.jpg'),
        'images/1.jpg',
    ),
    ('box without area', change('bbox', [10, 10, 0, 20]), '1.jpg'),
    ('box without area', change('area', 0), '1.jpg'),
    ('box outside the image', change('bbox', [60, 10, 9, 9]), '1.jpg'),
    (
        'box outside the image',
        change('bbox', [float('nan'), 10, 9, 9]),
        '1.jpg',
    ),
    (
        'box partly outside the image',
        change('bbox', [-5, 10, 35, 20]),
        '1.jpg',
    ),
    ('object with an unknown image', change('image_id', 77), 'image_id=77'),
    (
        'object with an unknown category',
        change('category_id', 77),
        'category_id=77',
    ),
    (
        'category that is not a class',
        lambda coco: coco.content['categories'].append(
            dict(id=9, name='bird')
        ),
        'bird',
    ),
]


@pytest.mark.parametrize(('kind', 'harm', 'where'), ANNOTATIONS)
def test_annotations(coco, kind, harm, where):
    harm(coco)
    assert_is_found(coco, kind, where)


def test_what_training_makes_of_unusual_objects(coco):
    coco.object.update(bbox=[-5, 10, 35, 20])
    objects = sample_of(coco)['data_samples'].gt_instances
    assert objects.bboxes.tensor[0, 0] == 0
    coco.object.update(bbox=[10, 10, 20, 20], segmentation=[[1, 2, 3, 4]])
    sample = sample_of(coco)['data_samples']
    assert len(sample.gt_instances) == len(sample.ignored_instances) == 1
    coco.object.update(segmentation=[[90, 90, 99, 90, 99, 99]])
    objects = sample_of(coco)['data_samples'].gt_instances
    assert [mask.any() for mask in objects.masks.masks] == [False, True]
    coco.object.update(bbox=[60, 10, 9, 9])
    assert len(sample_of(coco)['data_samples'].gt_instances) == 1


def test_images_without_objects(coco):
    del coco.content['annotations'][2:4]
    left = [name for name in NAMES if name != '1.jpg']
    assert_is_found(coco, 'image without objects', '1.jpg', left)
    # Or used, as the config says.
    coco.dataset.filter_cfg = None
    assert train(coco) == NAMES


def test_small_images_are_filtered(coco):
    coco.dataset.filter_cfg = dict(min_size=HEIGHT + 1)
    coco.content['images'][1]['height'] = HEIGHT
    coco.save()
    report = check_split(coco.cfg, 'train', workers=1)
    assert len(report.problems['image below filter_cfg.min_size']) == 4
    with pytest.raises(ValueError, match='is empty'):
        train(coco)


def test_image_ids_twice(coco):
    """The first of the two is never read, and the others get its objects."""
    coco.content['images'][1]['id'] = 0
    coco.save()
    report = check_split(coco.cfg, 'train', workers=1)
    assert report.problems['duplicate image id'] == ['0: 0.jpg, 1.jpg']
    assert 'duplicate image id' in report.fatal
    assert train(coco) == NAMES[1:]


def test_classes_without_objects(coco):
    coco.content['categories'].append(dict(id=9, name='bird'))
    coco.dataset.metainfo.classes = ('cat', 'dog', 'bird')
    for head in ('bbox_head', 'mask_head'):
        coco.cfg.model.roi_head[head].num_classes = 3
    assert_is_found(coco, 'class without objects', 'bird')
