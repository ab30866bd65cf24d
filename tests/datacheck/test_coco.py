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
from mmbiformer.utils.errors import DataError


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
        "'cat' has the ids 5, 9",
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


def change_all(**values):
    return lambda coco: [
        item.update(values) for item in coco.content['annotations']
    ]


def cats_with_text(coco):
    for item in coco.content['annotations']:
        item['category_id'] = str(item['category_id'])


def images_with_text(coco):
    for item in coco.content['annotations']:
        item['image_id'] = str(item['image_id'])


UNUSABLE = [
    (change_all(iscrowd=1), 'set it to 0 for objects'),
    (change_all(iscrowd='0'), 'set it to 0 for objects'),
    (change_all(ignore=1), 'set it to 0 for objects'),
    (change_all(bbox=[0.1, 0.1, 0.5, 0.5]), 'must be in pixels'),
    (change_all(area=0), 'area=0 in the annotations: 4'),
    (change_all(bbox=[90, 10, 20, 20]), 'box outside the image: 4'),
    (cats_with_text, 'id of another type: 4'),
    (images_with_text, 'id of another type: 4'),
    (
        lambda coco: coco.dataset.filter_cfg.update(min_size=HEIGHT + 1),
        'set filter_cfg.min_size lower',
    ),
]


@pytest.mark.parametrize('filter_empty_gt', [True, False])
@pytest.mark.parametrize(('harm', 'where'), UNUSABLE)
def test_no_object_is_usable(coco, harm, where, filter_empty_gt):
    coco.dataset.filter_cfg.filter_empty_gt = filter_empty_gt
    harm(coco)
    coco.save()
    report = check_split(coco.cfg, 'train', workers=1)
    found = report.problems['class whose objects are all skipped']
    assert [line.split(',')[0] for line in found] == ["'cat'", "'dog'"]
    assert where in found[0]
    with pytest.raises(
        DataError, match='class whose objects are all '
    ) as error:
        train(coco)
    assert where in str(error.value)


def test_most_objects_are_skipped(coco):
    for item in coco.content['annotations'][:5]:
        item['bbox'] = [90, 10, 20, 20]
    error = assert_is_found_with(
        coco, 'most objects are skipped', {'box outside the image'}
    )
    assert '5 of 8, box outside the image: 5' in error
    coco.content['annotations'][4]['bbox'] = [10, 10, 20, 20]
    coco.save()
    assert train(coco) == NAMES


def assert_is_found_with(coco, kind, others):
    coco.save()
    report = check_split(coco.cfg, 'train', workers=1)
    assert set(report.problems) == {kind, *others}
    with pytest.raises(DataError, match=kind) as error:
        train(coco)
    return str(error.value)


def test_parts_of_a_file_are_left_out_on_purpose(coco):
    """Its annotations and categories may be those of the whole."""
    coco.content['images'] = coco.content['images'][:1]
    coco.content['categories'] = coco.content['categories'][:1]
    coco.dataset.metainfo.classes = ('cat',)
    for head in ('bbox_head', 'mask_head'):
        coco.cfg.model.roi_head[head].num_classes = 1
    coco.save()
    assert not check_split(coco.cfg, 'train', workers=1).fatal
    assert train(coco) == NAMES[:1]


def test_one_category_with_two_ids(coco):
    coco.content['categories'].append(dict(id=9, name='cat'))
    coco.save()
    with pytest.raises(DataError, match="'cat' has the ids 5, 9; merge"):
        train(coco)


@pytest.mark.parametrize(
    'harm',
    [
        lambda coco: [
            item.pop('iscrowd') for item in coco.content['annotations']
        ],
        change_all(iscrowd=None),
        lambda coco: [
            image.update(width=float(image['width']), height=float(HEIGHT))
            for image in coco.content['images']
        ],
    ],
)
def test_what_mmdet_trains_on_is_no_problem(coco, harm):
    harm(coco)
    coco.save()
    assert not check_split(coco.cfg, 'train', workers=1).problems
    assert train(coco) == NAMES
