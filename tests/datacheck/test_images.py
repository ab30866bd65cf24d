"""Image files that are unusual or broken."""

import cv2
import numpy as np
import pytest
from small_datasets import (
    HEIGHT,
    NAMES,
    TEXTURE,
    WIDTH,
    Coco,
    Pairs,
    assert_is_found,
    sample_of,
    train,
    truncate,
    turn,
    write_image,
)

from mmbiformer.datacheck.images import inspect_image
from mmbiformer.datacheck.splits import check_split


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


def test_a_truncated_jpeg_is_found_though_it_can_be_loaded(tmp_path):
    """As by OpenCV 4, which fills the rest of the image with gray."""
    path = tmp_path / 'a.jpg'
    write_image(path)
    truncate(path)

    def load(data):
        return dict(data, img=TEXTURE)

    findings, size = inspect_image((dict(img_path=str(path)), []), load, None)
    assert findings == [
        (
            'broken image',
            f'{path}: the JPEG file is truncated, its end is missing',
        )
    ]
    assert size is None


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


def test_turned_images_of_fitting_annotations(coco):
    turn(coco.folder / 'images/1.jpg')
    coco.content['images'][1].update(width=HEIGHT, height=WIDTH)
    assert_is_found(coco, 'image rotated by EXIF', 'images/1.jpg')
