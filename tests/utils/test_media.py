import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmbiformer.inference.media import (
    MediaImage,
    Problem,
    count_images,
    find_media,
    name_results,
    read_image,
    read_media,
)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Empty files, which finding does not open."""
    monkeypatch.chdir(tmp_path)
    for name in (
        'a/2.jpg', 'a/10.PNG', 'a/.hidden.png', 'a/notes.txt', 'a/deep/3.png',
        'b/2.jpg', 'b/clip.mp4', 'empty/notes.txt', 'odd.dat', 'x[1].png',
    ):  # fmt: skip
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).touch()


class TestFindMedia:
    @pytest.mark.parametrize(
        ('source', 'expected'),
        [
            ('a', ['a/10.PNG', 'a/2.jpg']),
            ('b', ['b/2.jpg', 'b/clip.mp4']),
            ('*/*.jpg', ['a/2.jpg', 'b/2.jpg']),
            ('a/**', ['a/10.PNG', 'a/2.jpg', 'a/deep/3.png']),
            ('odd.dat', ['odd.dat']),
            ('x[1].png', ['x[1].png']),
        ],
    )
    def test_files_folders_and_patterns(self, tree, source, expected):
        assert find_media([source]) == (expected, [])

    def test_each_file_once(self, tree):
        found, _ = find_media(['b/2.jpg', 'b', os.path.abspath('b/2.jpg')])
        assert found == ['b/2.jpg', 'b/clip.mp4']

    def test_what_leads_to_nothing(self, tree):
        found, problems = find_media(['empty', 'a/2.jpg', '*.gif', 'no.png'])
        assert found == ['a/2.jpg']
        assert [problem.source for problem in problems] == [
            'empty', '*.gif', 'no.png',
        ]  # fmt: skip
        reasons = [problem.reason for problem in problems]
        assert 'folder without images' in reasons[0]
        assert 'pattern that no image' in reasons[1]
        assert os.path.abspath('no.png') in reasons[2]


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        (['d/a.png', 'e/b.jpg'], ['a', 'b']),
        (['d/a.png', 'e/a.png'], ['d/a', 'e/a']),
        (['d/a.png', 'e/A.png', 'e/b.png'], ['d/a', 'e/A', 'e/b']),
        (['d/a.png', 'd/a.jpg', 'd/b.jpg'], ['a.png', 'a.jpg', 'b']),
        (['a.png', 'd/a.png', 'd/a.jpg'], ['a', 'd/a.png', 'd/a.jpg']),
        # The frames of a video lie in a folder of its name.
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
    def test_what_is_cut_off_is_refused(self, pixels, tmp_path, suffix):
        content = cv2.imencode(suffix, pixels)[1].tobytes()
        path = tmp_path / f'image{suffix}'
        path.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(ValueError, match='truncated or broken'):
            read_image(str(path))

    def test_what_is_no_image_is_refused(self, tmp_path):
        path = tmp_path / 'image.jpg'
        path.write_bytes(b'')
        with pytest.raises(ValueError, match='is empty'):
            read_image(str(path))
        path.write_bytes(b'no image')
        with pytest.raises(ValueError, match='cannot be read as an image'):
            read_image(str(path))
        path.unlink()
        with pytest.raises(ValueError, match='No such file'):
            read_image(str(path))


def test_reading_images_and_videos(tmp_path):
    clip, image = str(tmp_path / 'clip.mp4'), str(tmp_path / 'image.png')
    writer = cv2.VideoWriter(
        clip, cv2.VideoWriter_fourcc(*'mp4v'), 5.0, (64, 48)
    )
    for value in (0, 100, 200):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    cv2.imwrite(image, np.zeros((8, 9, 3), np.uint8))
    broken = tmp_path / 'broken.mp4'
    broken.write_bytes(Path(clip).read_bytes()[:500])

    paths = [clip, str(broken), image]
    assert count_images(paths) == 5
    *frames, problem, last = read_media(paths, ['clip', 'broken', 'image'])
    assert [frame.name for frame in frames] == [
        f'clip/00000{index}' for index in range(3)
    ]
    for frame, value in zip(frames, (0, 100, 200), strict=True):
        assert frame.pixels.shape == (48, 64, 3)
        assert abs(frame.pixels.mean() - value) < 5
        assert frame.video.fps == 5
        assert frame.source is frame.pixels
    assert problem == Problem(str(broken), 'cannot be read as a video')
    assert isinstance(last, MediaImage)
    assert (last.name, last.source) == ('image', image)
