"""What a test does with its predictions; the tools are tested, too."""

import pytest
from mmengine.config import Config

from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.predictions import (
    enable_drawing,
    enable_tta,
    keep_predictions,
)

IOU = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])
OTHER = dict(type='DepthMetric')


def make_config(scope, evaluator, **settings):
    return Config(
        dict(
            default_scope=scope, model={}, test_evaluator=evaluator, **settings
        )
    )


class TestKeepPredictions:
    """``--out`` with metrics in each form that mmengine takes."""

    @pytest.mark.parametrize(
        ('evaluator', 'where'),
        [
            (IOU, lambda found: found),
            ([OTHER, IOU], lambda found: found[1]),
            (dict(type='Evaluator', metrics=[IOU]),
             lambda found: found.metrics[0]),
        ],
    )  # fmt: skip
    def test_label_maps(self, tmp_path, evaluator, where):
        cfg = make_config('mmseg', evaluator)
        keep_predictions(cfg, str(tmp_path / 'maps'))
        metric = where(cfg.test_evaluator)
        assert metric.output_dir == str(tmp_path / 'maps')
        assert metric.iou_metrics == ['mIoU']

    def test_no_metric_that_writes_them(self, tmp_path):
        cfg = make_config('mmseg', [OTHER, OTHER])
        with pytest.raises(ConfigError, match='IoUMetric or CityscapesMetric'):
            keep_predictions(cfg, str(tmp_path / 'maps'))
        assert not (tmp_path / 'maps').exists()

    @pytest.mark.parametrize(
        ('scope', 'dump'),
        [('mmdet', 'DumpDetResults'), ('mmpretrain', 'DumpResults')],
    )
    @pytest.mark.parametrize(
        'evaluator', [OTHER, [OTHER], dict(type='Evaluator', metrics=[OTHER])]
    )
    def test_pickles(self, scope, dump, evaluator):
        cfg = make_config(scope, evaluator)
        keep_predictions(cfg, 'a.pkl')
        found = cfg.test_evaluator
        found = found if isinstance(found, list) else found.metrics
        assert [one['type'] for one in found] == ['DepthMetric', dump]

    def test_a_name_that_does_not_fit(self):
        cfg = make_config('mmpretrain', OTHER)
        with pytest.raises(ConfigError) as error:
            keep_predictions(cfg, 'a.json')
        assert str(error.value) == (
            '--out must end in .pkl or .pickle for classification, got '
            "--out='a.json'"
        )


def test_classes_are_drawn_under_names_of_their_own():
    hooks = dict(visualization=dict(type='VisualizationHook', enable=False))
    cfg = make_config('mmpretrain', OTHER, default_hooks=hooks)
    enable_drawing(cfg, False, 'pictures', 2.0)
    hook = cfg.default_hooks.visualization
    assert hook.type == 'ClassVisualizationHook'
    assert hook.out_dir == 'pictures'


def test_classes_of_mirror_images_are_averaged():
    steps = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    loader = dict(dataset=dict(type='CustomDataset', pipeline=steps))
    cfg = make_config('mmpretrain', OTHER, test_dataloader=loader)
    enable_tta(cfg)
    assert cfg.model.type == 'AverageClsScoreTTA'
    load, augment = cfg.test_dataloader.dataset.pipeline
    assert load.type == 'LoadImageFromFile'
    flips, packs = augment.transforms
    assert [flip.prob for flip in flips] == [1.0, 0.0]
    assert packs == [dict(type='PackInputs')]
