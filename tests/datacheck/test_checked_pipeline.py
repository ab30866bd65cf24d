"""What training does with each sample that it loads."""

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from small_datasets import counts_of, train, truncate, write_image

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
    @pytest.mark.parametrize('mode', ['1', 'L', 'P'])
    def test_8_bits(self, tmp_path, mode):
        write_image(tmp_path / 'a.png', mode=mode)
        check_label_map(str(tmp_path / 'a.png'))

    @pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'I;16'])
    def test_others_are_named(self, tmp_path, mode):
        write_image(tmp_path / 'a.png', mode=mode)
        with pytest.raises(DataError, match=f"got mode '{mode}'"):
            check_label_map(str(tmp_path / 'a.png'))


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
        return pipeline(dict(img_path='a.jpg', seg_map_path='b.png', **data))

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
