from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').glob('*/*.py')
    if '_base_' not in path.parts
)
DETECTION = [path for path in CONFIGS if path.parent.name == 'detection']


def build(path, **backbone):
    cfg = Config.fromfile(path)
    register_all_modules(init_default_scope=False)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(init_cfg=None, **backbone)
    return cfg, MODELS.build(cfg.model)


@pytest.mark.parametrize('path', DETECTION, ids=lambda path: path.stem)
def test_detector_trains_and_predicts(path):
    torch.manual_seed(0)
    cfg, model = build(path)
    classes = cfg.model.roi_head.bbox_head.num_classes
    inputs = demo_mm_inputs(
        2,
        [(3, 96, 128), (3, 128, 90)],
        num_classes=classes,
        num_items=[3, 0],
        with_mask=True,
    )
    model.train()
    data = model.data_preprocessor(inputs, True)
    losses = model.loss(data['inputs'], data['data_samples'])
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    # Distributed training stops at such a parameter.
    assert not without

    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(inputs, False)
        results = model.predict(data['inputs'], data['data_samples'])
    assert len(results) == 2
    for result, size in zip(results, [(96, 128), (128, 90)], strict=True):
        instances = result.pred_instances
        assert instances.bboxes.shape[1] == 4
        assert instances.masks.shape[1:] == size
        assert (instances.labels < classes).all()


@pytest.mark.parametrize(
    ('name', 'arch', 'drop_path_rate'),
    [
        ('maskrcnn_biformer', 'small', 0.2),
        ('maskrcnn_biformer_base', 'base', 0.3),
    ],
)
def test_coco_recipe_is_the_authors(name, arch, drop_path_rate):
    cfg = Config.fromfile(ROOT / f'configs/detection/{name}.py')
    backbone = cfg.model.backbone
    assert backbone.arch == arch
    assert backbone.n_win == 16
    assert backbone.drop_path_rate == drop_path_rate
    assert backbone.norm_eval
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05
    )
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.norm.decay_mult == 0
    assert cfg.train_cfg.max_epochs == 12
    warmup, steps = cfg.param_scheduler
    assert (warmup.start_factor, warmup.end) == (0.001, 500)
    assert steps.milestones == [8, 11]
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_pipeline[2].scale == (1333, 800)
