"""What training does with each sample that it loads."""

import cv2
import numpy as np
import pytest
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image
from small_datasets import (
    NAMES,
    assert_is_found,
    counts_of,
    train,
    truncate,
    write_image,
)

from mmbiformer.datacheck.checked_pipeline import (
    CheckedPipeline,
    check_jpeg,
    check_label_map,
    check_mask,
    run_lengths,
)
from mmbiformer.datacheck.splits import check_split
from mmbiformer.utils.errors import DataError, PipelineError, UserError


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


def jpeg(tmp_path, change):
    path = tmp_path / 'a.jpg'
    write_image(path)
    path.write_bytes(change(path.read_bytes()))
    return str(path)


class TestJpeg:
    @pytest.mark.parametrize(
        'change',
        [
            lambda content: content,
            # As some cameras write.
            lambda content: content + b'\0\0 of the camera',
            lambda content: b'no JPEG at all',
        ],
    )
    def test_complete_files(self, tmp_path, change):
        check_jpeg(jpeg(tmp_path, change))

    @pytest.mark.parametrize('cut', [1, 2, 300])
    def test_truncated_files(self, tmp_path, cut):
        path = jpeg(tmp_path, lambda content: content[:-cut])
        with pytest.raises(DataError, match='JPEG file is truncated'):
            check_jpeg(path)


class TestLabelMap:
    """What the values are, and not how many bits a file has for them."""

    @pytest.mark.parametrize('mode', ['1', 'L', 'P'])
    def test_8_bits(self, tmp_path, mode):
        write_image(tmp_path / 'a.png', mode=mode)
        check_label_map(str(tmp_path / 'a.png'))

    @pytest.mark.parametrize('backend', ['pillow', 'cv2'])
    def test_16_bits(self, tmp_path, backend):
        path = str(tmp_path / 'a.png')
        labels = np.full((20, 30), 255, np.uint16)
        cv2.imwrite(path, labels)
        check_label_map(path, backend)
        labels[0, 0] = 256
        cv2.imwrite(path, labels)
        with pytest.raises(DataError, match=r'8 bits .* holds \[256\]'):
            check_label_map(path, backend)

    def test_fractions(self, tmp_path):
        labels = Image.fromarray(np.full((20, 30), 0.5, np.float32))
        labels.save(tmp_path / 'a.tif')
        with pytest.raises(DataError, match=r'holds \[0.5\]'):
            check_label_map(str(tmp_path / 'a.tif'))


class FromArray(BaseTransform):
    """A loader of one's own, whose name and files no check knows."""

    def transform(self, results):
        results['gt_seg_map'] = np.load(results['seg_map_path'])
        results['seg_fields'].append('gt_seg_map')
        return results


class FromColors(BaseTransform):
    """Replaces colors by the numbers of classes."""

    def transform(self, results):
        results['gt_seg_map'] = results['gt_seg_map'][..., 2] // 100
        return results


class FromLargeNumbers(LoadAnnotations):
    """Reads numbers above 255, such as those of Cityscapes' instances."""

    def _load_seg_map(self, results):
        labels = cv2.imread(results['seg_map_path'], cv2.IMREAD_UNCHANGED)
        results['gt_seg_map'] = (labels // 1000).astype(np.uint8)
        results['seg_fields'].append('gt_seg_map')


@pytest.fixture
def own_loaders(monkeypatch):
    for one in (FromArray, FromColors, FromLargeNumbers):
        monkeypatch.setitem(TRANSFORMS.module_dict, one.__name__, one)


def save_arrays(pairs):
    for name in NAMES:
        np.save(pairs.folder / f'labels/{name[0]}.npy', pairs.labels)
    pairs.dataset.seg_map_suffix = '.npy'
    pairs.dataset.pipeline[1].type = 'FromArray'


def save_colors(pairs):
    for name in NAMES:
        pairs.write_labels(name, np.dstack([pairs.labels * 100] * 3))
    pairs.dataset.pipeline.insert(2, dict(type='FromColors'))


def save_large_numbers(pairs):
    for name in NAMES:
        pairs.write_labels(name, pairs.labels.astype(np.uint16) * 1000 + 7)
    pairs.dataset.pipeline[1].type = 'FromLargeNumbers'


def save_16_bits(pairs):
    for name in NAMES:
        pairs.write_labels(name, pairs.labels.astype(np.uint16))


def save_half_size(pairs):
    for name in NAMES:
        pairs.write_labels(name, pairs.labels[::2, ::2])
    resize = dict(type='Resize', scale=(30, 20))
    pairs.dataset.pipeline.insert(2, resize)


@pytest.mark.parametrize(
    'save',
    [
        save_arrays,
        save_colors,
        save_large_numbers,
        save_16_bits,
        save_half_size,
    ],
)
def test_label_maps_are_what_the_pipeline_makes_of_files(
    pairs, own_loaders, save
):
    save(pairs)
    report = check_split(pairs.cfg, 'train', workers=1)
    assert not report.fatal
    assert report.classes['b'] == (0.25, 4)
    assert train(pairs) == NAMES


def test_labels_of_a_loader_of_ones_own_are_checked(pairs, own_loaders):
    save_arrays(pairs)
    np.save(pairs.folder / 'labels/1.npy', pairs.labels.astype(int) - 1)
    assert_is_found(pairs, 'label outside the classes', 'labels/1.npy')
    (pairs.folder / 'labels/1.npy').write_text('no array')
    assert_is_found(pairs, 'broken label map', 'labels/1.npy')


class TestMask:
    @pytest.mark.parametrize(
        ('mask', 'message'),
        [
            (dict(size=[4, 5], counts=[20]), None),
            (dict(size=[4, 5]), None),
            ([[1, 2, 3]], None),
            (
                dict(size=[5, 4], counts=[20]),
                'mask is 4 px wide and 5 px high, and the image is 5 px wide '
                'and 4 px high',
            ),
            (
                dict(size=[4, 5], counts=[7]),
                'mask has 7 pixels, and the image 20',
            ),
            ([[1, 2, float('nan')]], r'other than numbers: \[1, 2, nan\]'),
            ([['x']], r"other than numbers: \['x'\]"),
            ('x', "neither polygons nor run lengths: 'x'"),
        ],
    )
    def test_it_fits_its_image(self, mask, message):
        if message is None:
            check_mask(mask, (4, 5))
            return
        with pytest.raises(DataError, match=message):
            check_mask(mask, (4, 5))


class Step:
    """Pretends to load an image of 30 x 20 pixels, and its label map."""

    def __init__(self, labels=(20, 30), error=None):
        self.labels = labels
        self.error = error

    def __call__(self, data):
        if self.error:
            raise self.error
        data = dict(data, img=np.zeros((20, 30, 3), np.uint8))
        if self.labels:
            data['gt_seg_map'] = np.zeros(self.labels, np.uint8)
            data['ori_shape'] = (20, 30)
        return data


class FailingLoader(LoadImageFromFile):
    """What goes wrong in it is due to the file."""

    def __init__(self, error):
        self.error = error

    def transform(self, results):
        raise self.error


class TestCheckedPipeline:
    """What it compares, and what it names."""

    def run(self, step, **data):
        pipeline = CheckedPipeline(Compose([step]))
        info = dict(img_path='a.jpg', seg_map_path='b.png')
        return pipeline(dict(info, reduce_zero_label=False, **data))

    def test_what_fits_passes(self):
        assert self.run(Step(), height=20, width=30)['img'].shape[0] == 20

    @pytest.mark.parametrize(
        ('step', 'data', 'message'),
        [
            (
                Step(),
                dict(height=30, width=20),
                'the image is 30 px wide and 20 px high as loaded, after its '
                'EXIF orientation, and the annotations say 20 px wide and 30 '
                'px high',
            ),
            (
                Step(labels=(30, 20)),
                {},
                'the image is 30 px wide and 20 px high as loaded, after its '
                'EXIF orientation, and the label map 20 px wide and 30 px '
                'high',
            ),
            (
                Step(),
                dict(instances=[dict(bbox=[0, float('nan'), 1, 1])]),
                r'an object has the box \[0, nan, 1, 1\]',
            ),
            (
                FailingLoader(OSError('no disk')),
                {},
                'FailingLoader fails on the image: no disk',
            ),
        ],
    )
    def test_what_does_not_fit_names_both_files(self, step, data, message):
        with pytest.raises(
            DataError, match=rf'^a\.jpg with b\.png: .*{message}'
        ):
            self.run(step, **data)

    def test_a_truncated_jpeg_is_refused_though_it_was_loaded(self, tmp_path):
        """As by OpenCV 4, which fills the rest of the image with gray."""
        path = jpeg(tmp_path, lambda content: content[:-300])
        pipeline = CheckedPipeline(Compose([Step()]))
        with pytest.raises(DataError) as error:
            pipeline(dict(img_path=path))
        assert str(error.value) == (
            f'{path}: the JPEG file is truncated, its end is missing (python '
            'tools/misc/check_dataset.py CONFIG finds all such files)'
        )

    def test_a_step_that_fails_is_named_with_its_error(self):
        """Its cause may be the code, so it is no DataError."""
        with pytest.raises(PipelineError) as error:
            self.run(Step(error=ZeroDivisionError('of the code')))
        assert str(error.value) == (
            'a.jpg with b.png: Step fails on the image: ZeroDivisionError: '
            'of the code'
        )
        assert not isinstance(error.value, UserError)
        with pytest.raises(PipelineError, match='ValueError: of the code'):
            self.run(Step(error=ValueError('of the code')))
