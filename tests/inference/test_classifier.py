"""Classes of files, predicted as in testing."""

import json

import cv2
import flowers
import pytest
import torch
from random_weights import save_random_weights

from mmbiformer.inference.inferencer import (
    build_inferencer,
    load_weights,
    predict,
)
from mmbiformer.inference.results import FileInferencer
from mmbiformer.utils.config import build_model, read_config
from mmbiformer.utils.errors import ConfigError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.classification


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('flowers')
    return flowers.write(folder, images=dict(train=1, val=1))


@pytest.fixture(scope='module')
def weights(config):
    path = config.parent / 'random.pth'
    return str(save_random_weights(config, path, flowers.CLASSES))


@pytest.fixture
def cfg(config):
    return read_config(str(config))


@pytest.fixture
def image(config):
    return config.parent / 'val/rose/0.jpg'


def read(path):
    return json.loads(path.read_text())


def test_scores_are_those_of_testing(cfg, weights, image, tmp_path):
    inferencer = build_inferencer(cfg, weights, 'cpu')
    inferencer([str(image)], batch_size=1, out_dir=str(tmp_path))
    record = read(tmp_path / 'preds/0.json')
    model = build_model(cfg)
    load_weights(model, cfg, weights)
    expected = predict(model, cfg, str(image)).pred_score
    torch.testing.assert_close(torch.tensor(record['pred_scores']), expected)
    assert record['pred_label'] == expected.argmax()
    assert len(record['top5']) == 3


def test_images_and_videos(cfg, weights, image, tmp_path):
    clip = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(
        str(clip), cv2.VideoWriter_fourcc(*'MJPG'), 5.0, (80, 60)
    )
    for _ in range(3):
        writer.write(cv2.imread(str(image)))
    writer.release()
    larger = tmp_path / 'larger.png'
    cv2.imwrite(str(larger), cv2.resize(cv2.imread(str(image)), (500, 400)))
    out = tmp_path / 'out'
    out.mkdir()
    files = FileInferencer(build_inferencer(cfg, weights, 'cpu'), out)
    files.run([str(image), str(larger), str(clip)], batch_size=2)
    assert not files.skipped
    assert sorted(path.name for path in (out / 'preds').iterdir()) == [
        '0.json', 'clip', 'larger.json',
    ]  # fmt: skip
    assert len(list((out / 'preds/clip').iterdir())) == 3
    # Small ones are enlarged.
    assert cv2.imread(str(out / 'vis/0.jpg')).shape == (320, 426, 3)
    assert cv2.imread(str(out / 'vis/larger.png')).shape == (400, 500, 3)
    frames = cv2.VideoCapture(str(out / 'vis/clip.mp4'))
    assert frames.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert frames.read()[1].shape == (320, 426, 3)


@pytest.mark.parametrize('left_out', ['save_vis', 'save_pred'])
def test_only_one_of_both(cfg, weights, image, tmp_path, left_out):
    inferencer = build_inferencer(cfg, weights, 'cpu')
    files = FileInferencer(inferencer, tmp_path, **{left_out: False})
    files.run([str(image)], batch_size=1)
    written = dict(save_vis='preds', save_pred='vis')[left_out]
    assert [path.name for path in tmp_path.iterdir()] == [written]


def test_classes_that_nobody_names(config, cfg, tmp_path):
    path = str(save_random_weights(config, tmp_path / 'a.pth'))
    with pytest.raises(ConfigError, match='names the classes; set them by'):
        build_inferencer(cfg, path, 'cpu')
