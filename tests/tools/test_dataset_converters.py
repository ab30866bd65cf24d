"""Annotations of other tools, converted, checked and loaded for training."""

import base64
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from small_datasets import (
    HEIGHT,
    NAMES,
    WIDTH,
    Coco,
    Pairs,
    train,
    turn,
    write_image,
)

from mmbiformer.datacheck.splits import check_split

CONVERTERS = 'dataset_converters'


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in NAMES:
        write_image(folder / name)
    return folder


@pytest.fixture
def convert(images, run_tool, tmp_path):
    """Convert annotations; return the objects of COCO's format by image."""

    def run(tool, labels, *arguments):
        out = tmp_path / 'a.json'
        run_tool(f'{CONVERTERS}/{tool}', images, labels, out, *arguments)
        return read_objects(out)

    return run


@pytest.fixture
def fails(images, run_tool, tmp_path):
    """Convert annotations that are wrong; return the message."""

    def run(tool, labels, *arguments):
        out = tmp_path / 'b.json'
        result = run_tool(
            f'{CONVERTERS}/{tool}', images, labels, out, *arguments,
            check=False,
        )  # fmt: skip
        assert result.returncode == 1, result.stdout
        assert 'Traceback' not in result.stderr
        assert not list(tmp_path.glob('*b.json'))
        return result.stderr

    return run


def read_objects(path):
    """Return class, box and mask of each object, by the name of the image."""
    coco = COCO(str(path))
    objects = {}
    for key, image in coco.imgs.items():
        assert (image['height'], image['width']) == (HEIGHT, WIDTH)
        objects[image['file_name']] = [
            (
                coco.cats[item['category_id']]['name'],
                item['bbox'],
                coco.annToMask(item) if 'segmentation' in item else None,
            )
            for item in coco.loadAnns(coco.getAnnIds(imgIds=[key]))
        ]
    return objects


def write_classes(folder):
    path = folder / 'classes.txt'
    path.write_text('cat\ndog\n')
    return path


def assert_is_trained(folder, masks):
    """The file is checked, and a detector's samples have its objects."""
    coco = Coco.__new__(Coco)
    (folder / 'unused').mkdir()
    coco.__init__(folder / 'unused')
    coco.dataset.data_root = str(folder)
    if not masks:
        for step in coco.dataset.pipeline:
            if step['type'] == 'LoadAnnotations':
                step['with_mask'] = False
    report = check_split(coco.cfg, 'train', workers=1)
    assert not report.fatal
    assert train(coco)
    return report


SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def write_yolo(folder, lines):
    labels = folder / 'labels'
    labels.mkdir(exist_ok=True)
    for index, text in enumerate(lines):
        (labels / f'{index}.txt').write_text(text)
    return labels


def test_yolo_boxes_and_polygons(convert, tmp_path):
    # A box of 10, 10, 30, 30, and a triangle.
    box = f'{20 / WIDTH} {20 / HEIGHT} {20 / WIDTH} {20 / HEIGHT}'
    corners = [(0, 0), (30 / WIDTH, 0), (0, 20 / HEIGHT)]
    triangle = ' '.join(f'{x} {y}' for x, y in corners)
    labels = write_yolo(
        tmp_path, [f'0 {box}\n\n1 {triangle}\n', '', f'1 {box}\n']
    )
    objects = convert(
        'yolo2coco.py', labels, '--classes', write_classes(tmp_path)
    )
    (cat, dog), empty, (second,), missing = objects.values()
    assert (empty, missing) == ([], [])
    assert cat[0] == 'cat' and cat[1] == pytest.approx([10, 10, 20, 20])
    assert cat[2] is None
    assert dog[0] == 'dog' and dog[1] == pytest.approx([0, 0, 30, 20])
    assert dog[2].sum() == pytest.approx(300, abs=30)
    assert second[:2] == ('dog', pytest.approx([10, 10, 20, 20]))
    report = assert_is_trained(tmp_path, masks=False)
    assert report.counts['objects used'] == 3


def test_the_names_of_a_yolo_yaml(convert, tmp_path):
    labels = write_yolo(tmp_path, ['1 0.5 0.5 0.2 0.2'])
    path = tmp_path / 'data.yaml'
    path.write_text('train: images\nnames:\n  0: cat\n  1: dog\n')
    objects = convert('yolo2coco.py', labels, '--classes', path)
    assert objects['0.jpg'][0][0] == 'dog'


YOLO_ERRORS = [
    ('0 0.5 0.5 0.2', '0.txt, line 2: a box has 4 numbers'),
    ('0 0.5 0.5 0.2 0.2 0.9', '0.txt, line 2: a box has 4 numbers'),
    ('2 0.5 0.5 0.2 0.2', 'the class 2 is none of 0 to 1'),
    ('0 30 20 10 10', 'coordinates must lie between 0 and 1'),
    ('0 0.5 nan 0.2 0.2', 'coordinates must lie between 0 and 1'),
    ('cat 0.5 0.5 0.2 0.2', "'cat 0.5 0.5 0.2 0.2' has other than numbers"),
]


@pytest.mark.parametrize(('line', 'message'), YOLO_ERRORS)
def test_wrong_yolo_lines(fails, tmp_path, line, message):
    labels = write_yolo(tmp_path, [f'0 0.5 0.5 0.2 0.2\n{line}\n'])
    assert message in fails(
        'yolo2coco.py', labels, '--classes', write_classes(tmp_path)
    )


def test_what_a_converter_needs(fails, tmp_path, images):
    labels = write_yolo(tmp_path, ['0 0.5 0.5 0.2 0.2'])
    assert '--classes is needed' in fails('yolo2coco.py', labels)
    classes = write_classes(tmp_path)
    (labels / '0.txt').write_text('0 0.5 0.5 0.2 0.2', encoding='utf-16')
    text = fails('yolo2coco.py', labels, '--classes', classes)
    assert '0.txt is not text in UTF-8' in text
    (labels / '0.txt').rename(labels / 'a.txt')
    text = fails('yolo2coco.py', labels, '--classes', classes)
    assert 'has the name of an image' in text
    text = fails('yolo2coco.py', images, '--classes', classes)
    assert 'LABELS=' in text and 'has no file that ends in .txt' in text
    classes.write_text('cat\ncat\n')
    text = fails('yolo2coco.py', labels, '--classes', classes)
    assert "the class 'cat' is there twice" in text


def test_nothing_is_overwritten(convert, run_tool, tmp_path, images):
    labels = write_yolo(tmp_path, ['0 0.5 0.5 0.2 0.2'])
    classes = write_classes(tmp_path)
    convert('yolo2coco.py', labels, '--classes', classes)
    before = (tmp_path / 'a.json').read_text()
    result = run_tool(
        f'{CONVERTERS}/yolo2coco.py', images, labels, tmp_path / 'a.json',
        '--classes', classes, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert 'exists already' in result.stderr
    assert (tmp_path / 'a.json').read_text() == before


def png_of(mask):
    _, content = cv2.imencode('.png', mask)
    return base64.b64encode(content.tobytes()).decode()


def write_labelme(folder, shapes, **more):
    labels = folder / 'labels'
    labels.mkdir(exist_ok=True)
    for index, found in enumerate(shapes):
        content = dict(
            imagePath=f'..\\images\\{index}.jpg',
            imageData=None,
            imageHeight=HEIGHT,
            imageWidth=WIDTH,
            shapes=found,
        )
        content.update(more)
        (labels / f'{index}.json').write_text(json.dumps(content))
    return labels


def labelme_shape(label, points, kind='polygon', **more):
    points = np.reshape(points, (-1, 2)).tolist()
    return dict(label=label, points=points, shape_type=kind, **more)


def test_labelme(convert, tmp_path):
    mask = np.ones((5, 8), np.uint8)
    labels = write_labelme(
        tmp_path,
        [
            [
                labelme_shape('dog', SQUARE),
                labelme_shape('cat', [30, 30, 10, 20], 'rectangle'),
                labelme_shape('cat', [20, 20, 20, 30], 'circle'),
                labelme_shape(
                    'dog', [2, 3, 9, 7], 'mask', mask=png_of(mask * 255)
                ),
                labelme_shape('dog', [1, 1], 'point'),
                labelme_shape('__ignore__', SQUARE),
            ],
            # An object of two parts.
            [
                labelme_shape('cat', SQUARE, group_id=1),
                labelme_shape('cat', [40, 0, 50, 0, 50, 10], group_id=1),
                labelme_shape('dog', SQUARE, group_id=1),
            ],
        ],
    )
    objects = convert('labelme2coco.py', labels)
    dog, cat, circle, painted = objects['0.jpg']
    assert dog[:2] == ('dog', [10, 10, 20, 20])
    assert dog[2][10:30, 10:30].all() and dog[2].sum() == 400
    assert cat[:2] == ('cat', [10, 20, 20, 10])
    assert circle[1] == pytest.approx([10, 10, 20, 20])
    assert circle[2].sum() == pytest.approx(np.pi * 100, rel=0.05)
    assert painted[:2] == ('dog', [2, 3, 8, 5])
    assert painted[2][3:8, 2:10].all() and painted[2].sum() == 40
    parts, single = objects['1.jpg']
    assert parts[:2] == ('cat', [10, 0, 40, 30])
    assert single[:2] == ('dog', [10, 10, 20, 20])
    report = assert_is_trained(tmp_path, masks=True)
    assert report.counts['objects used'] == 6


LABELME_ERRORS = [
    ([labelme_shape('bird', SQUARE)], {}, "0.json, shape 1: 'bird' is none"),
    ([labelme_shape('cat', [1, 2, 3, 4])], {}, 'a polygon of 2 points'),
    (
        [labelme_shape('cat', [1, 2], 'rectangle')],
        {},
        'a rectangle of 1 points',
    ),
    (None, {}, '0.json is not a JSON file of Labelme (TypeError: shapes=None'),
    ([labelme_shape('cat', SQUARE, 'cube')], {}, "shape of the type 'cube'"),
    ([dict(label='cat')], {}, "0.json, shape 1 has no 'points'"),
    ([], dict(imagePath='7.jpg'), 'there is no image'),
    ([], dict(imageWidth=HEIGHT), 'annotated as 40 x 40 px'),
    ([], {}, 'there is no object'),
]


@pytest.mark.parametrize(('shapes', 'more', 'message'), LABELME_ERRORS)
def test_wrong_labelme_files(fails, tmp_path, shapes, more, message):
    labels = write_labelme(tmp_path, [shapes], **more)
    assert message in fails(
        'labelme2coco.py', labels, '--classes', write_classes(tmp_path)
    )


def test_an_image_that_was_annotated_unrotated(fails, tmp_path, images):
    """OpenCV rotates by EXIF, and so does the size."""
    turn(images / '0.jpg')
    labels = write_labelme(tmp_path, [[labelme_shape('cat', SQUARE)]])
    text = fails('labelme2coco.py', labels)
    assert 'the image is 40 x 60 px as loaded' in text


def cvat_xml(folder, images):
    path = folder / 'annotations.xml'
    shapes = ''.join(
        f'<image id="{index}" name="{index}.jpg" width="{WIDTH}" '
        f'height="{HEIGHT}">{text}</image>'
        for index, text in enumerate(images)
    )
    labels = ''.join(
        f'<label><name>{name}</name></label>' for name in ('dog', 'cat')
    )
    path.write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><meta><job>'
        f'<labels>{labels}</labels></job></meta>{shapes}</annotations>'
    )
    return path


def test_cvat(convert, tmp_path):
    points = ';'.join(
        f'{x},{y}' for x, y in np.reshape(SQUARE, (-1, 2)).tolist()
    )
    path = cvat_xml(
        tmp_path,
        [
            '<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20"/>'
            f'<polygon label="dog" points="{points}"/>'
            '<mask label="dog" rle="1, 3, 4" left="2" top="3" width="4" '
            'height="2"/>'
            '<points label="dog" points="1,1"/>',
            '<box label="cat" xtl="10" ytl="15" xbr="30" ybr="25" '
            'rotation="90"/>'
            '<ellipse label="cat" cx="20" cy="20" rx="10" ry="5"/>',
        ],
    )
    objects = convert('cvat2coco.py', path)
    box, polygon, painted = objects['0.jpg']
    assert box == ('cat', [10, 10, 20, 10], None)
    assert polygon[:2] == ('dog', [10, 10, 20, 20])
    assert painted[2][3, 3:6].all() and painted[2].sum() == 3
    rotated, ellipse = objects['1.jpg']
    assert rotated[1] == pytest.approx([15, 10, 10, 20])
    assert ellipse[1] == pytest.approx([10, 15, 20, 10])
    content = json.loads((tmp_path / 'a.json').read_text())
    # In the order of the labels in CVAT.
    assert [one['name'] for one in content['categories']] == ['dog', 'cat']
    assert all(item['iscrowd'] == 0 for item in content['annotations'])


CVAT_ERRORS = [
    ('<box label="cat" xtl="10"/>', "0.jpg, box 1 has no 'ytl'"),
    ('<polygon label="cat" points="1,1;2,2"/>', 'a polygon of 2 points'),
    (
        '<mask label="cat" rle="0, 4" left="59" top="3" width="2" '
        'height="2"/>',
        'a mask outside of the image',
    ),
    ('<box', 'annotations.xml cannot be read'),
]


@pytest.mark.parametrize(('text', 'message'), CVAT_ERRORS)
def test_wrong_cvat_files(fails, tmp_path, text, message):
    assert message in fails('cvat2coco.py', cvat_xml(tmp_path, [text]))


COLORS = [(0, 0, 0), (60, 160, 60), (120, 80, 30), (224, 224, 192)]
TABLE = '# label:color_rgb:parts:actions\n' + ''.join(
    f'{name}:{",".join(map(str, color))}::\n'
    for name, color in zip(('a', 'b', 'c', 'void'), COLORS, strict=True)
)


@pytest.fixture
def colored(tmp_path):
    """Label maps of colors, and the labels that they stand for."""
    pairs_folder = tmp_path / 'pairs'
    pairs_folder.mkdir()
    pairs = Pairs(pairs_folder)
    labels = pairs.labels.copy()
    labels[0] = 3
    folder = tmp_path / 'colored'
    folder.mkdir()
    colors = np.array(COLORS, np.uint8)
    for index in range(3):
        Image.fromarray(colors[labels]).save(folder / f'{index}.png')
    # One with a palette in another order.
    image = Image.fromarray(3 - labels, 'P')
    image.putpalette(colors[::-1].ravel().tolist())
    image.save(folder / '3.png')
    (tmp_path / 'table.txt').write_text(TABLE)
    return pairs, labels


def test_label_maps_of_colors(colored, run_tool, tmp_path):
    pairs, labels = colored
    result = run_tool(
        f'{CONVERTERS}/colors2labels.py', tmp_path / 'colored',
        tmp_path / 'table.txt', tmp_path / 'labels', '--ignore', 'void',
    )  # fmt: skip
    assert "classes': ('a', 'b', 'c'), 'palette': [[0, 0, 0], [" in (
        result.stdout
    )
    labels[0] = 255
    for index in range(4):
        found = cv2.imread(str(tmp_path / f'labels/{index}.png'), -1)
        np.testing.assert_array_equal(found, labels)
    pairs.dataset.data_prefix.seg_map_path = str(tmp_path / 'labels')
    report = check_split(pairs.cfg, 'train', workers=1)
    assert not report.problems
    assert train(pairs) == NAMES


def test_a_color_that_is_not_in_the_table(colored, run_tool, tmp_path):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[7, 5] = 1, 2, 3
    Image.fromarray(image).save(tmp_path / 'colored/2.png')
    arguments = [
        f'{CONVERTERS}/colors2labels.py', tmp_path / 'colored',
        tmp_path / 'table.txt', tmp_path / 'labels',
    ]  # fmt: skip
    result = run_tool(*arguments, check=False)
    assert result.returncode == 1
    assert '2.png: 1 pixels have a color that is not in' in result.stderr
    assert '(1, 2, 3) at x=5, y=7' in result.stderr
    assert not list(tmp_path.glob('*labels*'))
    (tmp_path / 'table.txt').write_text('a:0,0,0\nb:0,0\n')
    result = run_tool(*arguments, check=False)
    assert "table.txt, line 2: 'b:0,0' is not of the form" in result.stderr
    (tmp_path / 'labels').mkdir()
    (tmp_path / 'labels/mine.txt').touch()
    (tmp_path / 'table.txt').write_text(TABLE)
    result = run_tool(*arguments, check=False)
    assert 'exists already' in result.stderr
