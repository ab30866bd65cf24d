"""tools/infer.py, on scenes of digits."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from pycocotools import mask as coco_mask

from mmbiformer.inference import inferencer as inferencer_module
from mmbiformer.utils.config import build_model, read_config
from mmbiformer.utils.inference import load_weights, predict

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').glob('*/*.py')
    if '_base_' not in path.parts
)
DETECTION = ROOT / 'configs/detection/maskrcnn_biformer_digits.py'

# Semantic FPN and its recipe's pipeline, small enough for seconds.
SEGMENTATION = f"""
_base_ = '{ROOT}/configs/segmentation/sfpn_biformer.py'
model = dict(
    backbone=dict(
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 32, 64, 64), _delete_=True),
        n_win=4,
    ),
    neck=dict(in_channels=[32, 32, 64, 64], out_channels=32),
    decode_head=dict(in_channels=[32] * 4, channels=32, num_classes=11),
)
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = (96, 96)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""


def save_random_weights(config, path, classes=None):
    """Save weights that fit a config, not trained."""
    torch.manual_seed(0)
    cfg = read_config(str(config))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    for name, parameter in model.named_parameters():
        if 'norm' not in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    meta = dict(dataset_meta=dict(classes=classes)) if classes else {}
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    """Config and checkpoint; the config names the classes."""
    path = tmp_path_factory.mktemp('detector') / 'random.pth'
    return DETECTION, save_random_weights(DETECTION, path)


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    """Config and checkpoint; the checkpoint names the classes."""
    folder = tmp_path_factory.mktemp('segmentor')
    config = folder / 'config.py'
    config.write_text(SEGMENTATION)
    classes = ('background', *'0123456789')
    path = save_random_weights(config, folder / 'random.pth', classes)
    return config, path


@pytest.fixture
def scenes(digits):
    return [str(path) for path in sorted(digits.glob('images/train/*'))]


@pytest.fixture
def infer(monkeypatch):
    """Run the tool in this process; return its exit status or message."""

    def run(*arguments):
        monkeypatch.setattr(
            sys, 'argv', ['infer.py', *map(str, arguments)]
        )  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / 'tools/infer.py'), run_name='__main__')
        return ended.value.code

    return run


def read_index(folder):
    return json.loads((folder / 'predictions.json').read_text())


def expect(config, checkpoint, image):
    """Predict as in testing."""
    cfg = read_config(str(config))
    model = build_model(cfg)
    load_weights(model, cfg, str(checkpoint))
    return predict(model, cfg, image)


def assert_whole(folder):
    """No scratch file is left, and each file can be read."""
    for path in folder.rglob('*'):
        assert not path.name.startswith('.')
        if path.suffix == '.png':
            assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None
        if path.suffix == '.json':
            json.loads(path.read_text())


def test_a_detector_on_all_kinds_of_sources(
    detector, scenes, tmp_path, run_tool
):
    folder = tmp_path / 'images'
    (folder / 'more').mkdir(parents=True)
    for name, scene in (('a.png', 0), ('b.png', 1), ('more/a.png', 2)):
        (folder / name).write_bytes(Path(scenes[scene]).read_bytes())
    cut = folder / 'cut.png'
    cut.write_bytes(Path(scenes[3]).read_bytes()[:5000])
    clip = str(tmp_path / 'clip.avi')
    writer = cv2.VideoWriter(
        clip, cv2.VideoWriter_fourcc(*'MJPG'), 5.0, (160, 160)
    )
    for scene in scenes[:3]:
        writer.write(cv2.imread(scene))
    writer.release()

    out = tmp_path / 'out'
    result = run_tool(
        'infer.py', folder, folder / 'more/*.png', clip, 'nowhere.png',
        *detector, '--out-dir', out, '--batch-size', 2,
        '--pred-score-thr', 1, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    for name in (cut, 'nowhere.png'):
        assert f"infer.py: skipped: '{name}'" in result.stderr
    assert '] 7/7' in result.stdout  # the progress bar
    assert 'predicted   6 images, skipped 2' in result.stdout

    index = read_index(out)
    assert index['complete'] and index['task'] == 'detection'
    assert index['classes'] == list('0123456789')
    assert [item['image'] for item in index['skipped']] == [
        'nowhere.png', str(cut),
    ]  # fmt: skip
    images = {item.pop('image'): item for item in index['images']}
    assert images[str(folder / 'more/a.png')] == dict(
        prediction='preds/images/more/a.json', picture='vis/images/more/a.png'
    )
    assert images[clip] == dict(
        prediction='preds/clip', picture='vis/clip.mp4', frames=3
    )
    assert_whole(out)

    record = json.loads((out / 'preds/images/a.json').read_text())
    assert (record['height'], record['width']) == (160, 160)
    expected = expect(*detector, scenes[0]).pred_instances
    assert len(expected) > 10
    np.testing.assert_allclose(
        record['bboxes'], expected.bboxes.numpy(), atol=0.01
    )
    np.testing.assert_allclose(
        record['scores'], expected.scores.numpy(), atol=1e-4
    )
    assert record['labels'] == expected.labels.tolist()
    assert record['label_names'] == [str(i) for i in record['labels']]
    masks = np.moveaxis(coco_mask.decode(record['masks']), -1, 0)
    assert (masks == expected.masks.numpy()).mean() > 0.999

    # No score is as high as 1: the pictures are the images.
    picture = cv2.imread(str(out / 'vis/images/more/a.png'))
    np.testing.assert_array_equal(picture, cv2.imread(scenes[2]))
    capture = cv2.VideoCapture(str(out / 'vis/clip.mp4'))
    assert capture.get(cv2.CAP_PROP_FPS) == 5
    for scene in scenes[:3]:
        frame = capture.read()[1].astype(int)
        assert np.abs(frame - cv2.imread(scene)).mean() < 10
    assert not capture.read()[0]
    frame = json.loads((out / 'preds/clip/000001.json').read_text())
    assert len(frame['bboxes']) > 10


def test_a_segmentor_writes_label_maps(segmentor, scenes, tmp_path, infer):
    out = tmp_path / 'out'
    small = str(tmp_path / 'small.png')
    cv2.imwrite(small, cv2.imread(scenes[1])[:90, :70])
    assert infer(scenes[0], small, *segmentor, '--out-dir', out) == 0
    index = read_index(out)
    assert index['classes'] == ['background', *'0123456789']
    assert index['images'][0] == dict(
        image=scenes[0], labels='preds/000000.png', picture='vis/000000.png'
    )
    for image, name in ((scenes[0], '000000.png'), (small, 'small.png')):
        labels = cv2.imread(str(out / 'preds' / name), cv2.IMREAD_UNCHANGED)
        expected = expect(*segmentor, image).pred_sem_seg.data[0].numpy()
        assert labels.dtype == np.uint8
        assert len(np.unique(labels)) > 1
        np.testing.assert_array_equal(labels, expected)
        picture = cv2.imread(str(out / 'vis' / name))
        assert picture.shape == cv2.imread(image).shape


def test_only_pictures_or_only_predictions(detector, scenes, tmp_path, infer):
    for flag, kept in (('pred', ['vis']), ('vis', ['predictions.json'])):
        out = tmp_path / flag
        assert not infer(
            scenes[0], f'--no-save-{flag}', *detector, '--out-dir', out
        )
        names = sorted(path.name for path in out.iterdir())
        assert names == sorted({*kept, *(['preds'] if flag == 'vis' else [])})


def test_the_inferencer_is_the_frameworks_own(detector, scenes, tmp_path):
    config, checkpoint = detector
    inferencer = inferencer_module.build_inferencer(
        read_config(str(config)), str(checkpoint), 'cpu'
    )
    results = inferencer(
        scenes[0], out_dir=str(tmp_path), no_save_pred=False, return_vis=True
    )
    assert results['visualization'][0].shape == (160, 160, 3)
    assert len(results['predictions'][0]['bboxes']) > 10
    assert (tmp_path / 'preds/000000.json').is_file()
    assert inferencer.visualizer.dataset_meta['classes'][3] == '3'


def test_an_interruption_leaves_whole_files(
    detector, scenes, tmp_path, infer, monkeypatch, capsys
):
    draw = inferencer_module.draw

    def interrupt(inferencer, image, *arguments):
        if image.path == scenes[2]:
            raise KeyboardInterrupt
        return draw(inferencer, image, *arguments)

    monkeypatch.setattr(inferencer_module, 'draw', interrupt)
    out = tmp_path / 'out'
    assert infer(*scenes, *detector, '--out-dir', out) == 130
    assert 'interrupted' in capsys.readouterr().out
    index = read_index(out)
    assert not index['complete']
    assert [item['image'] for item in index['images']] == scenes[:2]
    assert len(list((out / 'preds').iterdir())) == 2
    assert_whole(out)


def test_one_image_does_not_stop_the_rest(
    detector, scenes, tmp_path, infer, monkeypatch, capsys
):
    draw = inferencer_module.draw

    def fail(inferencer, image, *arguments):
        if image.path == scenes[1]:
            raise IndexError('no colour')
        return draw(inferencer, image, *arguments)

    monkeypatch.setattr(inferencer_module, 'draw', fail)
    long = str(tmp_path / 'long.png')
    cv2.imwrite(long, np.zeros((2, 3000, 3), np.uint8))
    out = tmp_path / 'out'
    arguments = [long, *scenes[:3], *detector, '--out-dir', out]
    assert infer(*arguments, '--batch-size', 4) == 1
    message = capsys.readouterr().err
    assert f'{long!r} cannot be prepared' in message
    assert f'{scenes[1]!r} cannot be described or drawn' in message
    assert 'IndexError: no colour' in message
    done = [item['image'] for item in read_index(out)['images']]
    assert done == [scenes[0], scenes[2]]


class TestBadInput:
    """Each ends with one clear line, and before anything is written."""

    @pytest.fixture
    def refuse(self, detector, scenes, tmp_path, infer):
        def refuse(
            *arguments, image=scenes[0], config=detector[0],
            checkpoint=detector[1], out=tmp_path / 'out',
        ):  # fmt: skip
            message = infer(
                image, config, checkpoint, '--out-dir', out, *arguments
            )
            assert message.startswith('infer.py: error: ')
            assert not (tmp_path / 'out').exists()
            return message

        return refuse

    def test_images(self, refuse, tmp_path):
        message = refuse(image=tmp_path / 'nowhere.png')
        assert 'no image or video is in' in message
        assert 'nowhere.png' in message

    def test_configs(self, refuse, tmp_path):
        assert "config='nowhere.py'" in refuse(config='nowhere.py')
        config = tmp_path / 'config.py'
        config.write_text("default_scope = 'mmpretrain'\nmodel = dict()\n")
        assert "default_scope='mmpretrain'" in refuse(config=config)
        config.write_text(f"_base_ = '{DETECTION}'\ntest_dataloader = None\n")
        assert 'has no test_dataloader' in refuse(config=config)

    def test_checkpoints(self, refuse, segmentor, tmp_path):
        message = refuse(checkpoint='nowhere.pth')
        assert "checkpoint='nowhere.pth' is not a file" in message
        message = refuse(checkpoint=segmentor[1])
        assert 'does not fit the model of this config' in message
        broken = tmp_path / 'broken.pth'
        broken.write_bytes(segmentor[1].read_bytes()[:1000])
        assert 'truncated' in refuse(checkpoint=broken)

    def test_a_device(self, refuse):
        message = refuse('--device', 'nowhere')
        assert "device='nowhere' cannot be used" in message

    def test_folders(self, refuse, scenes, tmp_path):
        file = tmp_path / 'file'
        file.touch()
        for out in (file, file / 'out'):
            assert 'is not a folder' in refuse(out=out)
        old = tmp_path / 'old'
        (old / 'preds').mkdir(parents=True)
        assert 'holds results already' in refuse(out=old)
        (old / 'vis').mkdir()
        image = old / 'vis/image.png'
        image.write_bytes(Path(scenes[0]).read_bytes())
        message = refuse('--force', image=image, out=old)
        assert 'could overwrite it' in message

    def test_arguments(self, infer, scenes, detector, capsys):
        assert infer(*scenes[:2], detector[0]) == 2
        assert f'config={scenes[1]!r}' in capsys.readouterr().err
        for option, value in (('pred-score-thr', 2), ('batch-size', 0)):
            assert infer(scenes[0], *detector, f'--{option}={value}') == 2
            assert f'--{option}={value}' in capsys.readouterr().err
        flags = ['--no-save-vis', '--no-save-pred']
        assert infer(scenes[0], *detector, *flags) == 2
        assert 'leave nothing' in capsys.readouterr().err


def test_older_results_are_overwritten_by_force(
    detector, scenes, tmp_path, infer
):
    out = tmp_path / 'out'
    (out / 'preds').mkdir(parents=True)
    (out / 'preds/000000.json').write_text('old')
    (out / 'preds/other.json').write_text('{}')
    arguments = [scenes[0], *detector, '--out-dir', out, '--no-save-vis']
    assert infer(*arguments, '--force') == 0
    assert 'bboxes' in (out / 'preds/000000.json').read_text()
    assert (out / 'preds/other.json').read_text() == '{}'


@pytest.mark.slow
@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_every_config(config, digits, tmp_path, infer):
    """With all widths, and images and depths cut down."""
    cfg = read_config(str(config))
    backbone = cfg.model.backbone
    if isinstance(backbone.arch, str):
        dims = [96, 192, 384, 768] if 'base' in config.stem else 0
        dims = dims or [64, 128, 256, 512]
        backbone.arch = dict(depths=(1, 1, 1, 1), dims=dims)
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (128, 128)
    small = tmp_path / 'small.py'
    cfg.dump(small)
    checkpoint = save_random_weights(small, tmp_path / 'random.pth')
    out = tmp_path / 'out'
    image = digits / 'images/val/000000.png'
    assert infer(image, small, checkpoint, '--out-dir', out) == 0
    assert (out / 'vis/000000.png').is_file()
