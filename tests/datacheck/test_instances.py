"""Data sets of other formats than COCO's and VOC's."""

import csv
import json
import pickle

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image
from small_datasets import HEIGHT, NAMES, WIDTH, Pairs, read, write_image

from mmbiformer.datacheck.splits import check_split
from mmbiformer.reliable.runner import CheckedRunner
from mmbiformer.utils.errors import ConfigError

# Left, top, right and bottom; the second has no area.
BOXES = ([10, 10, 30, 30], [12, 4, 12, 20], [12, 4, 36, 20])


def crowd_human(folder):
    lines, sizes = [], {}
    for name in NAMES:
        boxes = [[x, y, right - x, y2 - y] for x, y, right, y2 in BOXES]
        found = [
            dict(tag='person', fbox=box, hbox=box, vbox=box) for box in boxes
        ]
        lines.append(json.dumps(dict(ID=name[0], gtboxes=found)))
        sizes[name[0]] = [HEIGHT, WIDTH]
    (folder / 'a.odgt').write_text('\n'.join(lines))
    (folder / 'sizes_train.json').write_text(json.dumps(sizes))
    return dict(
        type='CrowdHumanDataset',
        ann_file='a.odgt',
        extra_ann_file=str(folder / 'sizes_train.json'),
    )


def open_images(folder):
    columns = ['ImageID', 'Source', 'LabelName', 'Confidence']
    columns += ['XMin', 'XMax', 'YMin', 'YMax', 'IsOccluded', 'IsTruncated']
    columns += ['IsGroupOf', 'IsDepiction', 'IsInside']
    with open(folder / 'a.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for name in NAMES:
            for left, top, right, bottom in BOXES:
                box = [left / WIDTH, right / WIDTH, top / HEIGHT]
                box.append(bottom / HEIGHT)
                writer.writerow([name[0], '', '/m/a', 1, *box, *[0] * 5])
    (folder / 'labels.csv').write_text('/m/a,A\n')
    tree = dict(LabelName='/m', Subcategory=[dict(LabelName='/m/a')])
    (folder / 'tree.json').write_text(json.dumps(tree))
    sizes = [
        dict(filename=f'images/{name}', ori_shape=(HEIGHT, WIDTH, 3))
        for name in NAMES
    ]
    (folder / 'sizes.pkl').write_bytes(pickle.dumps(sizes))
    return dict(
        type='OpenImagesDataset',
        ann_file='a.csv',
        label_file='labels.csv',
        hierarchy_file='tree.json',
        meta_file='sizes.pkl',
    )


def panoptic(folder):
    # CocoPanopticDataset itself skips boxes without area.
    boxes = [[10, 10, 20, 20], [70, 4, 5, 16], [12, 4, 24, 16]]
    things = [
        dict(id=index, category_id=1, bbox=box, area=9, iscrowd=0)
        for index, box in enumerate(boxes, 1)
    ]
    stuff = dict(id=7, category_id=2, bbox=[0, 0, 60, 5], area=300, iscrowd=0)
    content = dict(
        images=[
            dict(id=index, file_name=name, width=WIDTH, height=HEIGHT)
            for index, name in enumerate(NAMES)
        ],
        annotations=[
            dict(
                image_id=index,
                file_name=f'{index}.png',
                segments_info=[things[0], stuff, *things[1:]],
            )
            for index in range(len(NAMES))
        ],
        categories=[
            dict(id=1, name='cat', isthing=1),
            dict(id=2, name='sky', isthing=0),
        ],
    )
    (folder / 'a.json').write_text(json.dumps(content))
    return dict(
        type='CocoPanopticDataset',
        ann_file='a.json',
        metainfo=dict(
            classes=('cat', 'sky'),
            thing_classes=('cat',),
            stuff_classes=('sky',),
        ),
    )


def objects365(folder):
    content = dict(
        images=[
            dict(id=index, file_name=name, width=WIDTH, height=HEIGHT)
            for index, name in enumerate(NAMES)
        ],
        annotations=[
            dict(
                id=10 * index + number,
                image_id=index,
                category_id=2 - number % 2,
                bbox=[left, top, right - left, bottom - top],
                area=max(1, (right - left) * (bottom - top)),
                iscrowd=0,
            )
            for index in range(len(NAMES))
            for number, (left, top, right, bottom) in enumerate(BOXES, 1)
        ],
        categories=[dict(id=2, name='dog'), dict(id=1, name='cat')],
    )
    (folder / 'a.json').write_text(json.dumps(content))
    return dict(
        type='Objects365V1Dataset',
        ann_file='a.json',
        metainfo=dict(classes=('cat', 'dog')),
    )


def config_of(folder, settings, classes):
    (folder / 'images').mkdir()
    for name in NAMES:
        write_image(folder / 'images' / name)
    cfg = read('detection/retinanet_biformer_digits.py')
    cfg.model.bbox_head.num_classes = classes
    loader = cfg.train_dataloader
    del loader['dataset']
    loader.update(
        num_workers=0,
        persistent_workers=False,
        batch_size=1,
        dataset=dict(
            data_root=str(folder),
            data_prefix=dict(img='images/'),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='PackDetInputs'),
            ],
            **settings,
        ),
    )
    return cfg


FORMATS = [
    (crowd_human, 1, 'box without area'),
    (open_images, 1, 'box without area'),
    (panoptic, 2, 'box outside the image'),
    (objects365, 2, None),
]


@pytest.mark.parametrize(('write', 'classes', 'kind'), FORMATS)
def test_formats(tmp_path, write, classes, kind):
    cfg = config_of(tmp_path, write(tmp_path), classes)
    report = check_split(cfg, 'train', workers=1)
    assert set(report.problems) - {'class without objects'} == (
        {kind} if kind else set()
    )
    assert report.counts['objects used'] == 8
    if kind:
        assert '0.jpg, object 1' in report.problems[kind][0]
    init_default_scope('mmdet')
    dataset = CheckedRunner.build_dataloader(
        cfg.train_dataloader, seed=0
    ).dataset
    for index in range(len(NAMES)):
        boxes = dataset[index]['data_samples'].gt_instances.bboxes.tensor
        expected = [BOXES[0], BOXES[2]]
        np.testing.assert_allclose(boxes, expected, atol=1e-4)
        info = dataset.get_data_info(index)
        if 'segments_info' in info:
            # In the same order as the objects, with the stuff between.
            segments = [segment['id'] for segment in info['segments_info']]
            assert segments == [1, 7, 3]


def test_videos_are_not_supported(tmp_path):
    content = dict(
        videos=[dict(id=1, name='v')],
        images=[
            dict(id=1, video_id=1, frame_id=0, file_name='0.jpg')
            | dict(width=WIDTH, height=HEIGHT)
        ],
        annotations=[],
        categories=[dict(id=1, name='cat')],
    )
    (tmp_path / 'a.json').write_text(json.dumps(content))
    settings = dict(
        type='YouTubeVISDataset',
        dataset_version='2019',
        ann_file='a.json',
        metainfo=dict(classes=('cat',)),
    )
    cfg = config_of(tmp_path, settings, 1)
    cfg.train_dataloader.dataset.data_prefix = dict(img_path='images/')
    with pytest.raises(ConfigError, match='YouTubeVISDataset are not supp'):
        check_split(cfg, 'train', workers=1)


def cityscapes(pairs):
    """Names of Cityscapes; each image has label maps of other kinds, too."""
    for kind, suffix in (('images', '_leftImg8bit.png'), ('labels', '')):
        for path in list((pairs.folder / kind).iterdir()):
            city = pairs.folder / kind / 'city'
            city.mkdir(exist_ok=True)
            if kind == 'images':
                Image.open(path).save(city / f'{path.stem}{suffix}')
                path.unlink()
                continue
            for other in ('color', 'instanceIds', 'labelIds'):
                write_image(city / f'{path.stem}_gtFine_{other}.png')
            path.rename(city / f'{path.stem}_gtFine_labelTrainIds.png')
    return dict(type='CityscapesDataset')


def pascal(pairs):
    """Palette images, with borders of 255, and a list of names."""
    for index in range(len(NAMES)):
        labels = pairs.labels.copy()
        labels[:3] = 255
        image = Image.fromarray(labels, 'P')
        image.putpalette(np.arange(768).astype(np.uint8).tolist())
        image.save(pairs.folder / f'labels/{index}.png')
    (pairs.folder / 'train.txt').write_text('0\n1\n2\n3\n')
    return dict(type='PascalVOCDataset', ann_file='train.txt')


@pytest.mark.parametrize(
    ('prepare', 'classes'), [(cityscapes, 19), (pascal, 21)]
)
def test_data_sets_of_mmseg(pairs: Pairs, prepare, classes):
    settings = prepare(pairs)
    pairs.cfg.model.decode_head.num_classes = classes
    del pairs.dataset['metainfo']
    pairs.dataset.update(settings)
    report = check_split(pairs.cfg, 'train', workers=1)
    assert set(report.problems) <= {'class without objects'}
    assert report.counts == {'images': 4, 'label maps': 4}
    init_default_scope('mmseg')
    dataset = CheckedRunner.build_dataloader(
        pairs.cfg.train_dataloader, seed=0
    ).dataset
    values = dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist()
    assert set(values) <= {0, 1, 2, 255}
    # A label of no class is named, whatever the data set.
    name = f'{pairs.folder}/{"labels/city" if classes == 19 else "labels"}'
    path = f'{name}/1{"_gtFine_labelTrainIds" if classes == 19 else ""}.png'
    Image.fromarray(np.full((HEIGHT, WIDTH), 99, np.uint8)).save(path)
    report = check_split(pairs.cfg, 'train', workers=1)
    assert report.fatal == ['label outside the classes']
    assert path in report.problems['label outside the classes'][0]
