"""The embedded data set: tools/dataset_converters/digits.py."""

import hashlib
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from sklearn.datasets import load_digits

DIGITS = 'dataset_converters/digits.py'
SINGLE = 'dataset_converters/single_digits.py'


def digest(folder):
    """Return a digest of names and contents of all files in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob('*')):
        if path.is_file():
            total.update(str(path.relative_to(folder)).encode())
            total.update(path.read_bytes())
    return total.hexdigest()


@pytest.mark.parametrize(('split', 'scenes'), [('train', 8), ('val', 2)])
def test_masks_boxes_and_labels_agree(digits, split, scenes):
    coco = COCO(digits / f'annotations/instances_{split}.json')
    assert [c['name'] for c in coco.dataset['categories']] == list(
        '0123456789'
    )
    assert len(coco.imgs) == scenes
    for image in coco.imgs.values():
        picture = cv2.imread(
            str(digits / 'images' / split / image['file_name'])
        )
        label = cv2.imread(
            str(digits / 'labels' / split / image['file_name']),
            cv2.IMREAD_UNCHANGED,
        )
        assert picture.shape == (160, 160, 3)
        expected = np.zeros((160, 160), np.uint8)
        annotations = coco.imgToAnns[image['id']]
        assert 1 <= len(annotations) <= 8
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            # Nothing hidden belongs to a mask: no pixel has two digits.
            assert not expected[mask].any()
            expected[mask] = annotation['category_id'] + 1
            ys, xs = np.nonzero(mask)
            x, y, w, h = annotation['bbox']
            assert (xs.min(), xs.max() + 1) == (x, x + w)
            assert (ys.min(), ys.max() + 1) == (y, y + h)
            assert annotation['area'] == mask.sum()
        assert (label == expected).all()


def test_same_seed_same_bytes(digits, tmp_path, run_tool):
    for name, seed in (('same', 0), ('other', 1)):
        run_tool(DIGITS, tmp_path / name, '--images', 8, '--seed', seed)
    assert digest(tmp_path / 'same') == digest(digits)
    assert digest(tmp_path / 'other') != digest(digits)


def test_settings_are_followed(tmp_path, run_tool):
    out = tmp_path / 'digits'
    run_tool(
        DIGITS, out, '--images', 5, '--size', 96, '--digits-per-image', 2, 2
    )
    content = json.loads(
        (out / 'annotations/instances_train.json').read_text()
    )
    assert len(content['annotations']) == 10
    assert cv2.imread(str(out / 'images/train/000004.png')).shape[0] == 96


def test_an_existing_folder_is_left_alone(digits, tmp_path, run_tool):
    before = digest(digits)
    again = run_tool(DIGITS, digits, '--images', 8)
    assert 'already' in again.stdout
    other = run_tool(DIGITS, digits, '--images', 9, check=False)
    assert other.returncode == 1
    assert str(digits) in other.stderr
    assert digest(digits) == before
    (tmp_path / 'file').touch()
    assert run_tool(DIGITS, tmp_path, check=False).returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize(
    'arguments',
    [
        ('--images', 0),
        ('--size', 10),
        ('--digits-per-image', 5, 3),
        ('--seed', -1),
    ],
)
def test_wrong_settings_are_named(tmp_path, run_tool, arguments):
    result = run_tool(DIGITS, tmp_path / 'out', *arguments, check=False)
    assert result.returncode == 2
    assert arguments[0] in result.stderr
    assert not (tmp_path / 'out').exists()


@pytest.fixture(scope='module')
def single(tmp_path_factory, run_tool):
    """A data set of 200 single digits, with two views of each to train on."""
    out = tmp_path_factory.mktemp('data') / 'single'
    run_tool(SINGLE, out, '--digits', 200, '--views', 2)
    return out


def numbers_in(folder):
    """The numbers of the digits in a split, and their classes."""
    return {
        int(path.stem.split('_')[0]): int(path.parent.name)
        for path in folder.glob('*/*.png')
    }


def test_single_digits_lie_in_the_folders_of_their_values(single):
    digits = load_digits()
    for split, views in (('train', 2), ('val', 1)):
        found = numbers_in(single / split)
        assert set(found.values()) == set(range(10))
        for number, value in found.items():
            assert digits.target[number] == value
        paths = list((single / split).glob('*/*.png'))
        assert len(paths) == views * len(found)
        assert {cv2.imread(str(path)).shape for path in paths} == {(80, 80, 3)}
    views = [
        cv2.imread(str(path))
        for path in sorted((single / 'train/0').iterdir())[:2]
    ]
    assert not np.array_equal(*views)


def test_no_form_and_no_digit_of_a_validation_is_trained_on(single):
    train, val = (numbers_in(single / split) for split in ('train', 'val'))
    # A form begins with all digits in order, several times.
    start = load_digits().target[1415:1435].tolist()
    assert start == 2 * list(range(10))
    assert max(train) < 1415 <= min(val)
    of_scenes = np.random.default_rng([0, 0]).permutation(1797)[:359]
    assert not set(train) & set(of_scenes.tolist())
    assert len(train) + len(val) > 150


def test_single_digits_are_made_once_and_alike(single, tmp_path, run_tool):
    arguments = ('--digits', 200, '--views', 2)
    run_tool(SINGLE, tmp_path / 'same', *arguments)
    assert digest(tmp_path / 'same') == digest(single)
    assert 'already' in run_tool(SINGLE, single, *arguments).stdout
    other = run_tool(SINGLE, single, '--digits', 200, check=False)
    assert other.returncode == 1
    assert str(single) in other.stderr


@pytest.mark.parametrize(
    'arguments', [('--views', 0), ('--digits', 50), ('--seed', -1)]
)
def test_wrong_settings_of_single_digits_are_named(
    tmp_path, run_tool, arguments
):
    result = run_tool(SINGLE, tmp_path / 'out', *arguments, check=False)
    assert result.returncode == 2
    assert arguments[0] in result.stderr
    assert not (tmp_path / 'out').exists()
