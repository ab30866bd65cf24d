"""tools/visualization/routing.py, on a scene of digits."""

import base64
import json
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmbiformer.visualization import ImageGeometry, RegionGrid
from mmbiformer.visualization.drawing import QUERY_COLOR

ROOT = Path(__file__).resolve().parents[2]
TOOL = 'visualization/routing.py'
CONFIG = ROOT / 'configs/detection/maskrcnn_biformer_digits.py'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Weights that fit the config, not trained."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(CONFIG).model)
    model.init_weights()
    path = tmp_path_factory.mktemp('checkpoint') / 'random.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


@pytest.fixture(scope='module')
def image(digits, tmp_path_factory):
    """A scene of odd size, which the pipeline shrinks."""
    path = tmp_path_factory.mktemp('image') / 'scene.png'
    scene = cv2.imread(str(digits / 'images/val/000000.png'))
    assert cv2.imwrite(str(path), cv2.resize(scene, (331, 203)))
    return path


def outlined(picture):
    """Return left, top, right and bottom of the area in the query's color."""
    rgb = [int(QUERY_COLOR[i : i + 2], 16) for i in (1, 3, 5)]
    ys, xs = np.nonzero(np.abs(picture[..., ::-1] - rgb).max(axis=-1) < 12)
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


def test_a_picture_and_a_page(run_tool, image, checkpoint, tmp_path):
    point = (140, 90)
    result = run_tool(
        TOOL, image, CONFIG, '--checkpoint', checkpoint,
        '--point', '140,90', '--out', tmp_path / 'out.png',
        '--html', tmp_path / 'out.html',
    )  # fmt: skip
    assert 'warning' not in result.stderr
    picture = cv2.imread(str(tmp_path / 'out.png')).astype(int)

    # 331 x 203 becomes 160 x 98, padded to 160 x 128: 10 x 8 tokens.
    geometry = ImageGeometry((203, 331), (160 / 331, 98 / 203))
    grid = RegionGrid(5, (8, 10), 16)
    region = grid.region_at(point, geometry)
    left, top, right, bottom = grid.region_box(region, geometry)
    # The first wide run of columns that are not white is the first panel.
    inked = np.flatnonzero((picture.min(axis=-1) < 200).any(axis=0))
    runs = np.split(inked, np.flatnonzero(np.diff(inked) > 1) + 1)
    panel = next(run for run in runs if len(run) > 100)
    x0, y0, x1, y1 = outlined(picture[:, panel])
    scale = len(panel) / 331
    # The outline is two points wide.
    assert x0 == pytest.approx(left * scale, abs=4)
    assert x1 == pytest.approx(right * scale, abs=4)
    assert y1 - y0 == pytest.approx((bottom - top) * scale, abs=5)

    page = (tmp_path / 'out.html').read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert (data['width'], data['height']) == (331, 203)
    layers = [(layer['stage'], layer['block']) for layer in data['layers']]
    assert layers == [(1, 1), (2, 1), *((3, block) for block in range(1, 5))]
    routing = base64.b64decode(data['layers'][-1]['routing'])
    routing = np.frombuffer(routing, '<u2').reshape(25, 16)
    assert routing.max() < 25
    assert (np.diff(np.sort(routing, axis=1)) > 0).all()
    np.testing.assert_allclose(
        data['boxes']['3'][region], [left, top, right, bottom], atol=0.01
    )


def test_all_stages_without_a_checkpoint(run_tool, image, tmp_path):
    result = run_tool(TOOL, image, CONFIG, '--all-stages', cwd=tmp_path)
    assert 'without --checkpoint all weights are random' in result.stderr
    # Not a line for every weight.
    assert result.stdout == 'picture     routing.png\n'
    all_stages = cv2.imread(str(tmp_path / 'routing.png'))
    # Five columns, and three points of two rows each.
    assert all_stages.shape[1] > 1100 and all_stages.shape[0] > 1000


class TestBadInput:
    """Each ends with one clear line, and before anything is written."""

    @pytest.fixture
    def refuse(self, image, tmp_path, monkeypatch):
        def refuse(*arguments, image=image, config=CONFIG):
            out = tmp_path / 'out.png'
            monkeypatch.setattr(
                sys, 'argv',
                ['routing.py', str(image), str(config), f'--out={out}']
                + [str(argument) for argument in arguments],
            )  # fmt: skip
            with pytest.raises(SystemExit) as error:
                runpy.run_path(str(ROOT / 'tools' / TOOL), run_name='__main__')
            assert not out.exists()
            message = str(error.value)
            assert message.startswith('routing.py: error: ')
            return message

        return refuse

    def test_a_point_outside(self, refuse):
        message = refuse('--point', '10,10', '331,5')
        assert 'point=331,5 lies outside' in message
        assert '331 pixels wide and 203 high' in message

    def test_a_stage_without_routing(self, refuse):
        message = refuse('--stage=4')
        assert 'stage=4 has global attention' in message
        assert '[1, 2, 3]' in message

    def test_no_such_stage_or_block(self, refuse):
        assert 'stage=5' in refuse('--stage=5')
        assert 'block must be between 1 and 4' in refuse('--block=5')

    def test_no_biformer(self, refuse, tmp_path):
        config = tmp_path / 'config.py'
        config.write_text(
            "_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', "
            f"'{ROOT}/configs/_base_/datasets/digits_instance.py']\n"
            "default_scope = 'mmdet'\n"
        )
        message = refuse(config=config)
        assert 'one BiFormer, but this MaskRCNN contains 0' in message

    def test_images(self, refuse, tmp_path):
        message = refuse(image=tmp_path / 'nowhere.png')
        assert 'nowhere.png' in message and 'is not a file' in message
        for content in (b'', b'no image'):
            (tmp_path / 'broken.png').write_bytes(content)
            message = refuse(image=tmp_path / 'broken.png')
            assert 'broken.png' in message
            assert 'cannot be read as an image' in message

    def test_configs(self, refuse):
        assert "config='nowhere.py'" in refuse(config='nowhere.py')

    def test_checkpoints(self, refuse, tmp_path):
        message = refuse('--checkpoint=nowhere.pth')
        assert "checkpoint='nowhere.pth' is not a file" in message
        other = tmp_path / 'other.pth'
        torch.save(dict(state_dict={'a': torch.zeros(1)}), other)
        message = refuse('--checkpoint', other)
        assert 'does not fit the model of this config' in message
        assert 'missing: ' in message
        torch.save([1, 2], other)
        assert 'holds no weights' in refuse('--checkpoint', other)

    def test_outputs(self, refuse, image, tmp_path):
        assert '--out must end in .png' in refuse('--out=a.bmp')
        message = refuse('--out', tmp_path / 'nowhere/a.png')
        assert f"{tmp_path / 'nowhere'}' is not a folder" in message
        assert '--html must end in .html' in refuse('--html=a.txt')
        before = image.read_bytes()
        assert 'would overwrite the image' in refuse('--out', image)
        assert image.read_bytes() == before

    def test_a_device(self, refuse):
        assert "device='nowhere' cannot be used" in refuse('--device=nowhere')
