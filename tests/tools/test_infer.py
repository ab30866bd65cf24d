"""tools/infer.py, on scenes of digits."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from pycocotools import mask as coco_mask
from random_weights import DETECTION, SEGMENTATION, save_random_weights
from shipped import CONFIGS

from mmbiformer.inference.inferencer import load_weights, predict
from mmbiformer.utils.config import build_model, read_config

ROOT = Path(__file__).resolve().parents[2]


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
        # As Python does for a script.
        monkeypatch.syspath_prepend(ROOT / 'tools')
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


def write_clip(path, scenes):
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5.0, (160, 160)
    )
    for scene in scenes:
        writer.write(cv2.imread(scene))
    writer.release()


def assert_whole(folder):
    """No hidden file or folder is left, and each file can be read."""
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
    write_clip(clip, scenes[:3])

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
    assert '] 6/7' in result.stdout  # the progress bar
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
    assert len(list(out.rglob('*.*'))) == 3 * 2 + 3 + 1 + 1
    assert_whole(out)

    record = json.loads((out / 'preds/images/a.json').read_text())
    expected = expect(*detector, scenes[0]).pred_instances
    assert len(expected) > 10
    np.testing.assert_allclose(
        record['bboxes'], expected.bboxes.numpy(), atol=0.01
    )
    np.testing.assert_allclose(
        record['scores'], expected.scores.numpy(), atol=1e-4
    )
    assert record['labels'] == expected.labels.tolist()
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
        image=scenes[0],
        picture='vis/000000.png',
        prediction='pred/000000_pred.png',
    )
    for image, item in zip((scenes[0], small), index['images'], strict=True):
        path = out / item['prediction']
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        expected = expect(*segmentor, image).pred_sem_seg.data[0].numpy()
        assert labels.dtype == np.uint8
        assert len(np.unique(labels)) > 1
        np.testing.assert_array_equal(labels, expected)
        picture = cv2.imread(str(out / item['picture']))
        assert picture.shape == cv2.imread(image).shape


def test_label_maps_hold_256_classes(segmentor, scenes, tmp_path, infer):
    config, checkpoint = segmentor
    many = torch.load(checkpoint)
    many['meta']['dataset_meta']['classes'] = [str(i) for i in range(257)]
    torch.save(many, tmp_path / 'many.pth')
    arguments = [scenes[0], config, tmp_path / 'many.pth']
    arguments += ['--out-dir', tmp_path / 'out']
    assert '257 classes' in infer(*arguments)
    assert infer(*arguments, '--no-save-pred') == 0


@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_only_pictures_or_only_predictions(
    task, request, scenes, tmp_path, infer
):
    model = request.getfixturevalue(task)
    folder = dict(detector='preds', segmentor='pred')[task]
    for flag, kept in (('pred', 'vis'), ('vis', folder)):
        out = tmp_path / flag
        flags = [f'--no-save-{flag}', '--out-dir', out]
        assert infer(scenes[0], *flags, *model) == 0
        names = sorted(path.name for path in out.iterdir())
        assert names == sorted([kept, 'predictions.json'])


@pytest.fixture
def draw_at(monkeypatch):
    """Do something when mmdet draws for the n-th time."""

    def patch(number, action):
        visualize = DetInferencer.visualize
        count = iter(range(100))

        def run(*args, **kwargs):
            if next(count) == number:
                action()
            return visualize(*args, **kwargs)

        monkeypatch.setattr(DetInferencer, 'visualize', run)

    return patch


def raising(error):
    def action():
        raise error

    return action


def test_an_interruption_leaves_whole_files(
    detector, scenes, tmp_path, infer, draw_at, capsys
):
    clip = tmp_path / 'clip.avi'
    write_clip(clip, scenes[:4])
    draw_at(3, raising(KeyboardInterrupt))
    out = tmp_path / 'out'
    assert infer(scenes[0], clip, *detector, '--out-dir', out) == 130
    assert 'interrupted' in capsys.readouterr().err
    index = read_index(out)
    assert not index['complete']
    assert [item.get('frames') for item in index['images']] == [None, 2]
    assert len(list(out.rglob('*.json'))) == 4
    assert_whole(out)
    capture = cv2.VideoCapture(str(out / 'vis/clip.mp4'))
    assert [capture.read()[0] for _ in range(3)] == [True, True, False]


def test_one_image_does_not_stop_the_rest(
    detector, scenes, tmp_path, infer, draw_at, capsys
):
    long = str(tmp_path / 'long.png')
    cv2.imwrite(long, np.zeros((2, 3000, 3), np.uint8))
    # The first of the three is drawn as one of a batch, and again alone.
    draw_at(0, raising(MemoryError('no room')))
    draw_at(3, raising(IndexError('no color')))
    out = tmp_path / 'out'
    arguments = [long, *scenes[:3], *detector, '--out-dir', out]
    assert infer(*arguments, '--batch-size', 4) == 1
    message = capsys.readouterr().err
    assert f'{long!r} cannot be predicted' in message
    assert f'{scenes[2]!r} cannot be predicted: IndexError: no color' in (
        message
    )
    assert 'Traceback' not in message
    done = [item['image'] for item in read_index(out)['images']]
    assert done == scenes[:2]
    assert_whole(out)


def test_an_error_of_every_image_is_shown_with_its_traceback(
    detector, scenes, tmp_path, infer, draw_at, capsys
):
    draw_at(0, raising(IndexError('no color')))
    assert infer(scenes[0], *detector, '--out-dir', tmp_path / 'out') == 1
    output, message = capsys.readouterr()
    assert 'predicted   0 images, skipped 1' in output
    assert 'out/vis' not in output
    assert 'Traceback' in message and 'in action' in message
    assert message.endswith('IndexError: no color\n')


def test_a_full_disk_ends_the_run(detector, scenes, tmp_path, infer, draw_at):
    draw_at(1, raising(OSError(28, 'No space left on device')))
    out = tmp_path / 'out'
    message = infer(*scenes[:3], *detector, '--out-dir', out)
    assert f'--out-dir={str(out)!r}' in message and 'No space' in message
    assert len(read_index(out)['images']) == 1
    assert_whole(out)


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
        assert f"'{tmp_path / 'nowhere.png'}' matches no images" in message

    def test_configs(self, refuse, tmp_path):
        assert "config='nowhere.py'" in refuse(config='nowhere.py')
        config = tmp_path / 'config.py'
        config.write_text("default_scope = 'mmpose'\nmodel = dict()\n")
        assert "default_scope='mmpose'" in refuse(config=config)
        config.write_text(f"_base_ = '{DETECTION}'\ntest_dataloader = None\n")
        assert 'has no test_dataloader' in refuse(config=config)

    def test_checkpoints(self, refuse, segmentor, tmp_path):
        message = refuse(checkpoint='nowhere.pth')
        assert "checkpoint='nowhere.pth' is not a file" in message
        message = refuse(checkpoint=segmentor[1])
        assert f'checkpoint={str(segmentor[1])!r}' in message
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
            message = refuse(out=out)
            assert f'--out-dir={str(out)!r}' in message
            assert f'{file} is not a folder' in message
        old = tmp_path / 'old'
        for name in ('pred', 'preds', 'vis'):
            (old / name).mkdir(parents=True)
            message = refuse(out=old)
            assert 'holds results already' in message
            assert str(old / name) in message
        image = old / 'vis/image.png'
        image.write_bytes(Path(scenes[0]).read_bytes())
        message = refuse('--force', image=image, out=old)
        assert repr(str(image)) in message and 'could overwrite' in message

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
    if isinstance(backbone.get('arch'), str):
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


def test_names_that_only_a_suffix_tells_apart(
    detector, scenes, tmp_path, infer
):
    for name, scene in (('ä b.png', 0), ('ä b.bmp', 1)):
        cv2.imwrite(str(tmp_path / name), cv2.imread(scenes[scene]))
    out = tmp_path / 'out'
    assert infer(tmp_path, *detector, '--out-dir', out) == 0
    for name in ('ä b.png', 'ä b.bmp'):
        record = json.loads((out / f'preds/{name}.json').read_text())
        expected = expect(*detector, str(tmp_path / name)).pred_instances
        np.testing.assert_allclose(
            record['scores'], expected.scores.numpy(), atol=1e-4
        )
        assert (out / f'vis/{name}.png').is_file()
