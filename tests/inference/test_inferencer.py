"""Inferencers of mmdet and mmseg, with checked weights and classes."""

import json
import warnings

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmseg.apis import MMSegInferencer
from random_weights import DETECTION, SEGMENTATION, save_random_weights

from mmbiformer.inference.inferencer import (
    build_inferencer,
    check_device,
    image_dataset,
    load_weights,
    predict,
)
from mmbiformer.utils.config import build_model, read_config
from mmbiformer.utils.errors import CheckpointError, ConfigError


@pytest.fixture(scope='module')
def image(digits):
    return str(digits / 'images/val/000000.png')


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Weights of a detector; they do not name the classes."""
    path = tmp_path_factory.mktemp('weights') / 'random.pth'
    return str(save_random_weights(DETECTION, path))


@pytest.fixture
def segmentation(tmp_path):
    path = tmp_path / 'segmentation.py'
    path.write_text(SEGMENTATION)
    return path


class TestBuildInferencer:
    def test_a_detector(self, weights, image, tmp_path):
        cfg = read_config(str(DETECTION))
        text = cfg.pretty_text
        inferencer = build_inferencer(cfg, weights, 'cpu')
        assert isinstance(inferencer, DetInferencer)
        assert cfg.pretty_text == text
        classes = tuple('0123456789')
        assert inferencer.model.dataset_meta['classes'] == classes
        assert inferencer.visualizer.dataset_meta['classes'] == classes
        results = inferencer(
            image, out_dir=str(tmp_path), no_save_pred=False, return_vis=True
        )
        assert results['visualization'][0].shape == (160, 160, 3)
        record = json.loads((tmp_path / 'preds/000000.json').read_text())
        model = build_model(cfg)
        load_weights(model, cfg, weights)
        expected = predict(model, cfg, image).pred_instances
        np.testing.assert_allclose(
            record['scores'], expected.scores.numpy(), atol=1e-4
        )

    def test_a_segmentor(self, segmentation, image, tmp_path):
        classes = ('background', *'0123456789')
        weights = save_random_weights(
            segmentation, tmp_path / 'random.pth', classes
        )
        cfg = read_config(str(segmentation))
        inferencer = build_inferencer(cfg, str(weights), 'cpu')
        assert isinstance(inferencer, MMSegInferencer)
        assert inferencer.model.dataset_meta['classes'] == classes
        assert len(inferencer.model.dataset_meta['palette']) == 11
        assert inferencer(image)['predictions'].shape == (160, 160)

    def test_the_classes_of_the_checkpoint_come_first(self, tmp_path):
        names = tuple('abcdefghij')
        path = save_random_weights(DETECTION, tmp_path / 'named.pth', names)
        cfg = read_config(str(DETECTION))
        inferencer = build_inferencer(cfg, str(path), 'cpu')
        assert inferencer.model.dataset_meta['classes'] == names

    def test_no_classes_are_invented(self, weights, tmp_path):
        path = tmp_path / 'config.py'
        path.write_text(
            f"_base_ = '{DETECTION}'\n"
            "test_dataloader = dict(dataset=dict(type='BaseDetDataset', "
            "_scope_='mmdet', metainfo=dict(_delete_=True)))\n"
        )
        with pytest.raises(ConfigError, match='names the classes') as error:
            build_inferencer(read_config(str(path)), weights, 'cpu')
        assert f'checkpoint={weights!r}' in str(error.value)
        assert str(path) in str(error.value)

    def test_missing_weights_are_refused(self, weights, tmp_path):
        checkpoint = torch.load(weights)
        name = next(iter(checkpoint['state_dict']))
        del checkpoint['state_dict'][name]
        path = str(tmp_path / 'lacks.pth')
        torch.save(checkpoint, path)
        with pytest.raises((CheckpointError, ValueError)) as error:
            build_inferencer(read_config(str(DETECTION)), path, 'cpu')
        assert f'checkpoint={path!r}' in str(error.value)
        assert name in str(error.value)

    def test_it_is_silent(self, weights, capsys):
        cfg = read_config(str(DETECTION))
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            build_inferencer(cfg, weights, 'cpu')
        assert capsys.readouterr().err == ''


def test_a_file_without_weights_is_refused(tmp_path):
    cfg = read_config(str(DETECTION))
    path = str(tmp_path / 'list.pth')
    torch.save(dict(state_dict=[1, 2]), path)
    with pytest.raises(CheckpointError) as error:
        load_weights(build_model(cfg), cfg, path)
    assert str(error.value).startswith(f'checkpoint={path!r} holds no weights')


def test_a_device_that_cannot_be_used():
    check_device('cpu')
    with pytest.raises(ConfigError, match="device='nowhere'"):
        check_device('nowhere')


class TestImageDataset:
    def test_it_loads_no_annotations(self):
        leaf = dict(
            type='CocoDataset',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='PackDetInputs'),
            ],
        )
        wrapped = dict(
            type='ConcatDataset',
            datasets=[dict(type='RepeatDataset', dataset=leaf, times=1)],
        )
        cfg = Config(dict(test_dataloader=dict(dataset=wrapped)))
        found = image_dataset(cfg)
        assert [step.type for step in found.pipeline] == [
            'LoadImageFromFile', 'PackDetInputs',
        ]  # fmt: skip
        assert len(leaf['pipeline']) == 3

    def test_a_config_without_one_is_refused(self, tmp_path):
        path = tmp_path / 'config.py'
        path.write_text('test_dataloader = None\n')
        with pytest.raises(ConfigError) as error:
            image_dataset(Config.fromfile(path))
        assert str(error.value).startswith(f'{path} has no test_dataloader')
