"""What is found ahead of training, and what training does with it."""

import copy
import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as mask_utils

from mmbiformer.datacheck.checked_pipeline import run_lengths
from mmbiformer.datacheck.checks import check_classes, check_data, check_labels
from mmbiformer.datacheck.report import KINDS, STOPS, WRONG
from mmbiformer.datacheck.splits import check_split
from mmbiformer.reliable.runner import CheckedRunner
from mmbiformer.utils.errors import PipelineError, UserError

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 60, 40
NAMES = [f'{index}.jpg' for index in range(4)]
TEXTURE = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (5, 5, 3)).astype(np.uint8),
    (WIDTH, HEIGHT),
)


@functools.cache
def _read(name):
    return Config.fromfile(ROOT / 'configs' / name)


def read(name):
    return copy.deepcopy(_read(name))


def write_image(path, size=(WIDTH, HEIGHT), mode='RGB', **options):
    image = Image.fromarray(TEXTURE).resize(size).convert(mode)
    image.save(path, **options)


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def turn(path):
    exif = Image.Exif()
    exif[274] = 6
    write_image(path, exif=exif)


def deepen(path):
    """Write 16 bits a channel, in a PNG of whatever name."""
    _, content = cv2.imencode('.png', TEXTURE.astype(np.uint16) * 257)
    path.write_bytes(content.tobytes())


def save_as(kind, mode):
    return lambda path: write_image(path, mode=mode, format=kind)


# What can be wrong with the image file itself, for both tasks.
IMAGES = {
    'missing image': lambda path: path.unlink(),
    'broken image': truncate,
    'grayscale image': save_as('JPEG', 'L'),
    'image with transparency': save_as('PNG', 'RGBA'),
    'CMYK image': save_as('JPEG', 'CMYK'),
    '16-bit image': deepen,
}


class Coco:
    """Four images with two objects each."""

    def __init__(self, folder):
        self.folder = folder
        (folder / 'images').mkdir()
        for name in NAMES:
            write_image(folder / 'images' / name)
        self.content = dict(
            images=[
                dict(id=index, file_name=name, width=WIDTH, height=HEIGHT)
                for index, name in enumerate(NAMES)
            ],
            categories=[dict(id=5, name='cat'), dict(id=2, name='dog')],
            annotations=[
                dict(
                    id=index,
                    image_id=index // 2,
                    category_id=(5, 2)[index % 2],
                    bbox=[10, 10, 20, 20],
                    area=400,
                    iscrowd=0,
                    segmentation=[[10, 10, 30, 10, 30, 30, 10, 30]],
                )
                for index in range(8)
            ],
        )
        self.cfg = read('detection/maskrcnn_biformer_digits.py')
        for head in ('bbox_head', 'mask_head'):
            self.cfg.model.roi_head[head].num_classes = 2
        self.cfg.train_dataloader.update(
            num_workers=0, persistent_workers=False, batch_size=1
        )
        self.dataset = self.cfg.train_dataloader.dataset
        self.dataset.update(
            data_root=str(folder),
            ann_file='a.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('cat', 'dog')),
        )

    @property
    def object(self):
        """The first object of the second image."""
        return self.content['annotations'][2]

    def save(self):
        (self.folder / 'a.json').write_text(json.dumps(self.content))


class Pairs:
    """Four images and their label maps of three classes."""

    def __init__(self, folder):
        self.folder = folder
        for kind in ('images', 'labels'):
            (folder / kind).mkdir()
        self.labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        self.labels[:20], self.labels[:, :30] = 1, 2
        for name in NAMES:
            write_image(folder / 'images' / name)
            self.write_labels(name, self.labels)
        self.cfg = read('segmentation/sfpn_biformer_tiny.py')
        self.cfg.model.decode_head.num_classes = 3
        loader = self.cfg.train_dataloader
        self.dataset = dict(
            type='BaseSegDataset',
            data_root=str(folder),
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            metainfo=dict(classes=('a', 'b', 'c')),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='PackSegInputs'),
            ],
        )
        del loader['dataset']
        loader.update(
            num_workers=0,
            persistent_workers=False,
            batch_size=1,
            dataset=self.dataset,
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
        self.dataset = loader.dataset

    def write_labels(self, name, labels):
        path = self.folder / 'labels' / f'{name[0]}.png'
        assert cv2.imwrite(str(path), labels)

    def save(self):
        pass


def train(data):
    """Read the data as tools/train.py does; return the images read."""
    init_default_scope(data.cfg.default_scope)
    check_data(data.cfg, ['train_dataloader'])
    check_classes(data.cfg, ['train_dataloader'])
    loader = CheckedRunner.build_dataloader(data.cfg.train_dataloader, seed=0)
    read = []
    for batch in loader:
        sample = batch['data_samples'][0]
        if 'gt_sem_seg' in sample:
            check_labels(sample.gt_sem_seg.data, 3, 255, sample.seg_map_path)
        read.append(Path(sample.img_path).name)
    return sorted(read)


def assert_is_found(data, kind, where='', read=None):
    """The check finds it, and training does what the check says."""
    data.save()
    report = check_split(data.cfg, 'train', workers=1)
    assert kind in report.problems
    # What follows from a class without a category.
    assert set(report.problems) - {kind} <= {
        'category that is not a class',
        'class without objects',
    }
    assert where in report.problems[kind][0]
    effect = KINDS[kind].effect
    assert (effect in (STOPS, WRONG)) == bool(report.fatal)
    assert f'{effect}: ' in report.text()
    assert f'{kind}: {len(report.problems[kind])} (' in report.text()
    if effect == STOPS:
        with pytest.raises((PipelineError, UserError)) as error:
            train(data)
        assert where in str(error.value)
        return str(error.value)
    assert train(data) == (read or NAMES)
    return None


@pytest.fixture
def coco(tmp_path_factory):
    return Coco(tmp_path_factory.mktemp('coco'))


@pytest.fixture
def pairs(tmp_path_factory):
    return Pairs(tmp_path_factory.mktemp('pairs'))


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


@pytest.mark.parametrize('kind', IMAGES)
@pytest.mark.parametrize('task', [Coco, Pairs])
def test_image_files(tmp_path, kind, task):
    data = task(tmp_path)
    path = tmp_path / 'images/1.jpg'
    if task is Pairs and kind == 'missing image':
        # Without a list of names, there is only a label map too many.
        data.dataset.ann_file = 'names.txt'
        (tmp_path / 'names.txt').write_text('0\n1\n2\n3\n')
    IMAGES[kind](path)
    assert_is_found(data, kind, str(path))


@pytest.mark.parametrize('size', [(1, 4000), (4000, 1)])
def test_images_too_long_for_the_pipeline(coco, size):
    write_image(coco.folder / 'images/1.jpg', size)
    width, height = size
    coco.content['images'][1].update(width=width, height=height)
    for one in coco.content['annotations'][2:4]:
        one['bbox'] = [0, 0, width, height]
        one['segmentation'] = [[0, 0, width, 0, width, height, 0, height]]
    message = assert_is_found(
        coco, 'image that the pipeline rejects', 'images/1.jpg'
    )
    assert f'{width} px wide and {height} px high' in message


def test_one_pixel(coco, pairs):
    write_image(coco.folder / 'images/1.jpg', (1, 1))
    coco.content['images'][1].update(width=1, height=1)
    for one in coco.content['annotations'][2:4]:
        one['bbox'] = [0, 0, 1, 1]
        one['segmentation'] = [[0, 0, 1, 0, 1, 1, 0, 1]]
    coco.save()
    assert not check_split(coco.cfg, 'train', workers=1).problems
    assert train(coco) == NAMES
    write_image(pairs.folder / 'images/1.jpg', (1, 1))
    pairs.write_labels('1', pairs.labels[:1, :1])
    assert_is_found(pairs, 'image that the pipeline rejects', 'images/1.jpg')


def cut_json(coco):
    coco.save()
    path = coco.folder / 'a.json'
    path.write_text(path.read_text()[:-20])
    coco.save = lambda: None


def change(key, value):
    return lambda coco: coco.object.update({key: value})


def counts_of(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return dict(size=rle['size'], counts=rle['counts'].decode())


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
    (
        'object without a mask',
        lambda coco: coco.object.pop('segmentation'),
        'images/1.jpg',
    ),
    ('mask that does not fit the image', change('segmentation', 'x'), ''),
    (
        'mask that does not fit the image',
        change('segmentation', counts_of(np.eye(50))),
        'images/1.jpg',
    ),
    (
        'mask that does not fit the image',
        change('segmentation', dict(size=[HEIGHT, WIDTH], counts='zzzz')),
        'images/1.jpg',
    ),
    (
        'mask that does not fit the image',
        change('segmentation', dict(size=[HEIGHT, WIDTH], counts=[5, 5])),
        'images/1.jpg',
    ),
    (
        'mask without a valid polygon',
        change('segmentation', [[10, 10, 30, 30]]),
        'images/1.jpg',
    ),
    (
        'empty mask',
        change('segmentation', [[90, 90, 99, 90, 99, 99]]),
        'images/1.jpg',
    ),
    (
        'mask outside its box',
        change('segmentation', [[40, 2, 50, 2, 50, 8]]),
        'images/1.jpg',
    ),
    (
        'mask larger than its box',
        change('segmentation', [[5, 5, 50, 5, 50, 39, 5, 39]]),
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


def sample_of(data):
    """The second image, as training gets it."""
    data.save()
    init_default_scope(data.cfg.default_scope)
    data.dataset.test_mode = True
    loader = CheckedRunner.build_dataloader(data.cfg.train_dataloader, seed=0)
    return loader.dataset[1]


def test_what_training_makes_of_unusual_files(coco):
    """The rules, value by value, without Resize."""
    del coco.dataset.pipeline[2]
    path = coco.folder / 'images/1.jpg'
    for kind in ('grayscale image', '16-bit image', 'image with transparency'):
        IMAGES[kind](path)
        image = sample_of(coco)['inputs'].numpy()[::-1].transpose(1, 2, 0)
        if kind == 'grayscale image':
            assert (image == image[..., :1]).all()
        else:
            np.testing.assert_array_equal(
                image, TEXTURE[..., ::-1] if kind[0] == '1' else TEXTURE
            )
    turn(path)
    coco.content['images'][1].update(width=HEIGHT, height=WIDTH)
    assert sample_of(coco)['inputs'].shape == (3, WIDTH, HEIGHT)


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


def test_turned_images_of_fitting_annotations(coco):
    turn(coco.folder / 'images/1.jpg')
    coco.content['images'][1].update(width=HEIGHT, height=WIDTH)
    assert_is_found(coco, 'image rotated by EXIF', 'images/1.jpg')


def harm_labels(labels):
    return lambda pairs: pairs.write_labels('1', labels(pairs.labels))


def rename(old, new):
    return lambda pairs: (pairs.folder / old).rename(pairs.folder / new)


LABELS = [
    (
        'missing label map',
        lambda pairs: (pairs.folder / 'labels/1.png').unlink(),
        'labels/1.png',
    ),
    (
        'broken label map',
        lambda pairs: truncate(pairs.folder / 'labels/1.png'),
        'labels/1.png',
    ),
    (
        'broken label map',
        harm_labels(lambda labels: np.dstack([labels] * 3)),
        'labels/1.png',
    ),
    (
        'broken label map',
        harm_labels(lambda labels: labels.astype(np.uint16) + 256),
        'labels/1.png',
    ),
    (
        'label map size mismatch',
        harm_labels(lambda labels: labels[1:]),
        'labels/1.png',
    ),
    (
        'label map size mismatch',
        lambda pairs: turn(pairs.folder / 'images/1.jpg'),
        'labels/1.png',
    ),
    (
        'label outside the classes',
        harm_labels(lambda labels: labels + 1),
        'labels/1.png',
    ),
    (
        'label map without labels',
        harm_labels(lambda labels: labels * 0 + 255),
        'labels/1.png',
    ),
    (
        'heads do not fit the classes',
        lambda pairs: pairs.cfg.model.decode_head.update(num_classes=9),
        'decode_head.num_classes=9',
    ),
    ('no image', lambda pairs: pairs.dataset.update(img_suffix='.JPG'), ''),
]


@pytest.mark.parametrize(('kind', 'harm', 'where'), LABELS)
def test_label_maps(pairs, kind, harm, where):
    harm(pairs)
    if kind == 'no image':
        for path in list((pairs.folder / 'images').iterdir()):
            path.unlink()
        for path in list((pairs.folder / 'labels').iterdir()):
            path.unlink()
    assert_is_found(pairs, kind, where)


def test_files_that_are_passed_over(pairs):
    (pairs.folder / 'images/1.jpg').rename(pairs.folder / 'images/1.JPEG')
    report = check_split(pairs.cfg, 'train', workers=1)
    assert not report.fatal
    (picture,) = report.problems['image with another suffix']
    (label,) = report.problems['label map without an image']
    assert picture.endswith('images/1.JPEG')
    assert label.endswith('labels/1.png')
    assert train(pairs) == ['0.jpg', '2.jpg', '3.jpg']


def test_half_turned_pairs(pairs):
    """Of one size, and yet not the same way up: nothing else could tell."""
    exif = Image.Exif()
    exif[274] = 3
    write_image(pairs.folder / 'images/1.jpg', exif=exif)
    assert_is_found(pairs, 'label map not rotated by EXIF', 'images/1.jpg')


def test_reduce_zero_label(pairs):
    pairs.dataset.reduce_zero_label = True
    for name in NAMES:
        pairs.write_labels(name, pairs.labels + 1)
    report = check_split(pairs.cfg, 'train', workers=1)
    assert not report.problems
    assert report.classes['c'] == (0.5, 4)
    pairs.write_labels('1', pairs.labels + 2)
    assert_is_found(pairs, 'label outside the classes', 'labels/1.png')


def test_classes_without_objects(coco):
    coco.content['categories'].append(dict(id=9, name='bird'))
    coco.dataset.metainfo.classes = ('cat', 'dog', 'bird')
    for head in ('bbox_head', 'mask_head'):
        coco.cfg.model.roi_head[head].num_classes = 3
    assert_is_found(coco, 'class without objects', 'bird')


def test_a_part_of_coco_and_of_ade20k(coco, pairs):
    from mmdet.datasets import CocoDataset

    coco.dataset.ann_file = 'instances_val2017.json'
    names = CocoDataset.METAINFO['classes']
    coco.dataset.metainfo.classes = names
    coco.content['categories'] = [
        dict(id=index, name=name) for index, name in enumerate(names)
    ]
    coco.save()
    (coco.folder / 'a.json').rename(coco.folder / 'instances_val2017.json')
    report = check_split(coco.cfg, 'train', workers=1)
    assert report.remarks == [
        'the complete COCO 2017 val has 5,000 images, 36,781 objects'
    ]
    pairs.dataset.type = 'ADE20KDataset'
    pairs.dataset.metainfo = None
    pairs.dataset.data_prefix = dict(
        img_path='images/training', seg_map_path='labels'
    )
    (pairs.folder / 'images/training').mkdir()
    for name in NAMES:
        (pairs.folder / 'images' / name).rename(
            pairs.folder / 'images/training' / name
        )
    report = check_split(pairs.cfg, 'train', workers=1)
    assert 'the complete ADE20K SceneParsing train has 20,210 images' in (
        report.remarks
    )


def test_other_data_sets_are_refused(coco):
    coco.dataset.type = 'VOCDataset'
    coco.dataset.data_prefix = dict(sub_data_root='images')
    coco.save()
    coco.dataset.metainfo = dict(classes=('cat', 'dog'))
    with pytest.raises(ValueError, match='VOCDataset are not supported'):
        check_split(coco.cfg, 'train')
    with pytest.raises(ValueError, match="no 'other_dataloader'"):
        check_split(coco.cfg, 'other')


def test_every_kind_is_documented_and_tested():
    page = (ROOT / 'docs/data_preparation.md').read_text()
    rows = [
        [cell.strip() for cell in line.strip('| ').split('|')]
        for line in page.splitlines()
        if line.startswith('|')
    ]
    table = {row[0]: row[1:] for row in rows if row[0] in KINDS}
    assert table == {
        kind: [effect, rule] for kind, (effect, rule) in KINDS.items()
    }
    text = Path(__file__).read_text()
    assert not [kind for kind in KINDS if f"'{kind}'" not in text]


def test_run_lengths_are_those_of_the_coco_api():
    generator = np.random.default_rng(0)
    for _ in range(50):
        size = generator.integers(1, 60, 2)
        mask = generator.random(size) < generator.choice([0, 0.05, 0.5, 1])
        runs = run_lengths(counts_of(mask)['counts'])
        assert runs.sum() == mask.size
        assert runs[1::2].sum() == mask.sum()
    for counts in ('', 'z', '0P', [1.5], [-1, 2], [[1]], '\x7f', 'é'):
        with pytest.raises(ValueError, match='counts'):
            run_lengths(counts)


def test_errors_of_workers_name_the_file(coco):
    truncate(coco.folder / 'images/1.jpg')
    coco.save()
    coco.cfg.train_dataloader.num_workers = 1
    # In wrappers, too.
    concatenated = dict(type='ConcatDataset', datasets=[coco.dataset])
    coco.cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=concatenated
    )
    report = check_split(coco.cfg, 'train', workers=1)
    assert set(report.problems) == {'broken image'}
    with pytest.raises(ValueError) as error:
        train(coco)
    last = str(error.value).strip().splitlines()[-1]
    assert 'images/1.jpg: ' in last


def test_the_tool(coco, run_tool):
    truncate(coco.folder / 'images/1.jpg')
    coco.save()
    config = coco.folder / 'config.py'
    coco.cfg.dump(config)
    result = run_tool(
        'misc/check_dataset.py', config, '--splits', 'train', '--workers', 2,
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert 'broken image: 1 (' in result.stdout
    assert f'{coco.folder}/images/1.jpg' in result.stdout
    assert 'Traceback' not in result.stderr
    assert 'train: broken image' in result.stderr
