import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmbiformer.inference.media import (
    count_frames,
    find_files,
    name_results,
    read_image,
    read_video,
)
from mmbiformer.utils.errors import DataError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Empty files, which finding does not open."""
    monkeypatch.chdir(tmp_path)
    for name in (
        'a/2.jpg', 'a/10.PNG', 'a/.hidden.png', 'a/notes.txt', 'a/deep/3.png',
        'b/2.jpg', 'b/clip.mp4', 'empty/notes.txt', 'odd.dat', 'x[1].png',
        'y[1]/4.png',
    ):  # fmt: skip
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).touch()


class TestFindFiles:
    @pytest.mark.parametrize(
        ('source', 'expected'),
        [
            ('a', ['a/10.PNG', 'a/2.jpg']),
            ('b', ['b/2.jpg', 'b/clip.mp4']),
            ('*/*.jpg', ['a/2.jpg', 'b/2.jpg']),
            ('a/**', ['a/10.PNG', 'a/2.jpg', 'a/deep/3.png']),
            ('odd.dat', ['odd.dat']),
            ('x[1].png', ['x[1].png']),
            ('y[1]', ['y[1]/4.png']),
        ],
    )
    def test_files_folders_and_patterns(self, tree, source, expected):
        assert find_files([source]) == (expected, {})

    def test_each_file_once(self, tree):
        sources = ['b/2.jpg', 'b', os.path.abspath('b/2.jpg')]
        found, _ = find_files(sources)
        assert found == ['b/2.jpg', 'b/clip.mp4']

    def test_what_leads_to_nothing(self, tree):
        sources = ['empty', 'a/2.jpg', '*.gif', 'no.png']
        found, skipped = find_files(sources)
        assert found == ['a/2.jpg']
        assert list(skipped) == ['empty', '*.gif', 'no.png']
        assert 'is a folder without images' in skipped['empty']
        for source, reason in skipped.items():
            assert os.path.abspath(source) in reason


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        (['d/a.png', 'e/b.jpg'], ['a', 'b']),
        (['d/a.png', 'e/a.png'], ['d/a', 'e/a']),
        (['d/a.png', 'e/A.png', 'e/b.png'], ['d/a', 'e/A', 'e/b']),
        (['d/a.png', 'd/a.jpg', 'd/b.jpg'], ['a.png', 'a.jpg', 'b']),
        (['a.png', 'd/a.png', 'd/a.jpg'], ['a', 'd/a.png', 'd/a.jpg']),
        # The predictions of a video are in a folder of its name.
        (['a.mp4', 'a/0.png', 'b/0.png'], ['a.mp4', 'a/0', 'b/0']),
        (['a.png', 'a.jpg', 'a.png.png'], ['a.png', 'a.jpg', 'a.png.png']),
    ],
)
def test_results_of_no_two_files_share_a_name(paths, names):
    assert name_results([f'/data/{path}' for path in paths]) == names


class TestReadImage:
    @pytest.fixture
    def pixels(self):
        """A smooth picture, in BGR."""
        y, x = np.mgrid[:40, :60]
        return np.stack([4 * x, 6 * y, 250 - 4 * x], -1).astype(np.uint8)

    def test_kinds_of_images(self, pixels, tmp_path):
        rgb = Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))
        grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        alpha = np.full(grey.shape, 99, np.uint8)
        cv2.imwrite(f'{tmp_path}/rgba.png', np.dstack([pixels, alpha]))
        cv2.imwrite(f'{tmp_path}/16.png', pixels.astype(np.uint16) * 257)
        cv2.imwrite(f'{tmp_path}/16.tif', pixels.astype(np.uint16) * 257)
        rgb.save(tmp_path / 'rgb.webp', quality=95)
        rgb.save(tmp_path / 'rgb.jpg', quality=95)
        rgb.convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=95)
        rgb.quantize(256).save(tmp_path / 'palette.png')
        for path in tmp_path.iterdir():
            image = read_image(str(path))
            assert image.dtype == np.uint8 and image.shape == pixels.shape
            difference = np.abs(image.astype(int) - pixels)
            assert difference.mean() < 8, path.name
        for name, values in (('8', grey), ('16', grey.astype('u2') * 257)):
            cv2.imwrite(f'{tmp_path}/grey{name}.png', values)
            image = read_image(f'{tmp_path}/grey{name}.png')
            np.testing.assert_array_equal(image, np.dstack([grey] * 3))

    @pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.webp'])
    def test_a_truncated_file_is_refused(self, pixels, tmp_path, suffix):
        content = cv2.imencode(suffix, pixels)[1].tobytes()
        path = tmp_path / f'image{suffix}'
        path.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(DataError, match='is truncated'):
            read_image(str(path))

    def test_what_is_no_image_is_refused(self, tmp_path):
        path = tmp_path / 'image.jpg'
        for content in (b'', b'no image'):
            path.write_bytes(content)
            with pytest.raises(DataError, match='cannot be read as an image'):
                read_image(str(path))
        path.unlink()
        with pytest.raises(DataError, match='No such file'):
            read_image(str(path))


def test_reading_a_video(tmp_path):
    clip = tmp_path / 'clip.mp4'
    writer = cv2.VideoWriter(
        str(clip), cv2.VideoWriter_fourcc(*'mp4v'), 5.0, (64, 48)
    )
    for value in (0, 100, 200):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    assert count_frames(str(clip)) == 3
    frames = list(read_video(str(clip), 'name'))
    assert [frame.name for frame in frames] == [
        f'name/00000{index}' for index in range(3)
    ]
    for frame, value in zip(frames, (0, 100, 200), strict=True):
        assert frame.pixels.shape == (48, 64, 3)
        assert abs(frame.pixels.mean() - value) < 5
        assert frame.fps == 5

    broken = tmp_path / 'broken.mp4'
    broken.write_bytes(clip.read_bytes()[:500])
    with pytest.raises(DataError, match='cannot be read as a video'):
        next(read_video(str(broken), 'name'))


def test_a_truncated_video_is_reported(tmp_path):
    clip = tmp_path / 'clip.avi'
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), 'u1')
    writer = cv2.VideoWriter(
        str(clip), cv2.VideoWriter_fourcc(*'MJPG'), 2.0, (64, 48)
    )
    for frame in noise:
        writer.write(frame)
    writer.release()
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r'ended after \d+ of 30 frames'):
        list(read_video(str(clip), 'name'))
