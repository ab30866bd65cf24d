import math
import re

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules as register_mmseg
from shipped import ALIASES, CONFIGS, RECIPES, ROOT

from mmbiformer import BiFormer

DETECTION = [path for path in CONFIGS if path.parent.name == 'detection']
SEGMENTATION = [path for path in CONFIGS if path.parent.name == 'segmentation']


def read(name):
    (path,) = (path for path in CONFIGS if path.stem == name)
    return Config.fromfile(path)


def build(path):
    """Build a config's model with its widths, and a BiFormer of few blocks."""
    torch.manual_seed(0)
    cfg = Config.fromfile(path)
    register_mmdet(init_default_scope=False)
    register_mmseg(init_default_scope=False)
    init_default_scope(cfg.default_scope)
    backbone = cfg.model.backbone
    if backbone.type == 'BiFormer':
        backbone.arch.depths = (1, 1, 1, 1)
    backbone.init_cfg = None
    if 'roi_head' in cfg.model:
        # A few boxes show all that thousands do.
        cfg.model.train_cfg.rpn_proposal.max_per_img = 50
        cfg.model.train_cfg.rcnn.sampler.num = 16
        cfg.model.test_cfg.rpn.max_per_img = 20
        cfg.model.test_cfg.rcnn.max_per_img = 5
    if 'size' in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.size = (64, 64)
    return cfg, revert_sync_batchnorm(MODELS.build(cfg.model))


def train_step(model, inputs):
    """Compute the loss and its gradients."""
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


@torch.no_grad()
def predict(model, inputs):
    model.eval()
    data = model.data_preprocessor(inputs, False)
    return model.predict(data['inputs'], data['data_samples'])


@pytest.mark.parametrize('path', DETECTION, ids=lambda path: path.stem)
def test_detector_trains_and_predicts(path):
    cfg, model = build(path)
    heads = cfg.model.get('roi_head', cfg.model)
    classes = heads.bbox_head.num_classes
    inputs = demo_mm_inputs(
        2,
        [(3, 96, 128), (3, 128, 90)],
        num_classes=classes,
        num_items=[3, 0],
        with_mask=True,
    )
    train_step(model, inputs)
    results = predict(model, inputs)
    assert len(results) == 2
    for result, size in zip(results, [(96, 128), (128, 90)], strict=True):
        instances = result.pred_instances
        assert instances.bboxes.shape[1] == 4
        assert (instances.labels < classes).all()
        if 'mask_head' in heads:
            assert instances.masks.shape[1:] == size


@pytest.mark.parametrize('path', SEGMENTATION, ids=lambda path: path.stem)
def test_segmentor_trains_and_predicts(path):
    cfg, model = build(path)
    classes = cfg.model.decode_head.num_classes
    inputs = dict(inputs=[], data_samples=[])
    for _ in range(2):
        inputs['inputs'].append(torch.randint(0, 256, (3, 64, 64)))
        sample = SegDataSample(metainfo=dict(img_shape=(64, 64)))
        labels = torch.randint(0, classes, (1, 64, 64))
        sample.gt_sem_seg = PixelData(data=labels)
        inputs['data_samples'].append(sample)
    train_step(model, inputs)
    # A test image is not cropped.
    meta = dict(img_shape=(64, 70), ori_shape=(50, 55))
    results = predict(
        model,
        dict(
            inputs=[torch.randint(0, 256, (3, 64, 70))],
            data_samples=[SegDataSample(metainfo=meta)],
        ),
    )
    labels = results[0].pred_sem_seg.data
    assert labels.shape == (1, 50, 55)
    assert 0 <= labels.min() <= labels.max() < classes


def weight_decays(cfg):
    """Return the weight decay of each of the backbone's parameters."""
    arch = dict(depths=(1, 1, 1, 1), dims=(32, 32, 32, 32))
    model = MODELS.build(dict(cfg.model.backbone, arch=arch, init_cfg=None))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {id(value): name for name, value in model.named_parameters()}
    return {
        names[id(value)]: group['weight_decay']
        for group in optimizer.param_groups
        for value in group['params']
    }


def learning_rates(cfg, iterations):
    """Return the learning rate's factor at some iterations."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    optimizer.step()
    schedulers = [
        PARAM_SCHEDULERS.build(dict(settings, optimizer=optimizer))
        for settings in cfg.param_scheduler
    ]
    rates = []
    for iteration in range(iterations[-1] + 1):
        if iteration in iterations:
            rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    return rates


def settings_of(pipeline, kind):
    (found,) = (step for step in pipeline if step['type'] == kind)
    return found


# Table 1 of the paper, and the authors' fourth released model.
DEPTHS = dict(
    tiny=(2, 2, 8, 2),
    small=(4, 4, 18, 4),
    base=(4, 4, 18, 4),
    stl=(2, 2, 6, 2),
)
CHANNELS = dict(
    tiny=[64, 128, 256, 512],
    small=[64, 128, 256, 512],
    base=[96, 192, 384, 768],
    stl=[96, 192, 384, 768],
)
OF_STL = dict(mlp_ratio=4, layout='stl')


def backbone_of(arch, **settings):
    """Return the whole backbone of a recipe."""
    weights = f'checkpoints/biformer_{arch}_best.pth'
    return dict(
        type='BiFormer',
        arch=dict(
            depths=DEPTHS[arch],
            dims=CHANNELS[arch],
            head_dim=32,
            **(OF_STL if arch == 'stl' else dict(mlp_ratio=3)),
        ),
        topks=(1, 4, 16, -2),
        init_cfg=dict(type='Pretrained', checkpoint=weights),
        **settings,
    )


@pytest.mark.parametrize('arch', DEPTHS)
def test_archs_are_those_with_a_name(arch):
    """In the configs and in BiFormer."""
    named = BiFormer.arch_zoo[arch]
    assert named['depths'] == DEPTHS[arch]
    assert list(named['dims']) == CHANNELS[arch]
    by_name = BiFormer(arch, out_indices=(0,))
    in_full = BiFormer(backbone_of(arch)['arch'], out_indices=(0,))
    assert repr(by_name) == repr(in_full)


@pytest.mark.parametrize(
    'path',
    [path for path in ALIASES if path.parent.name != 'classification'],
    ids=lambda path: path.stem,
)
def test_long_names_stand_for_recipes(path):
    head, arch, schedule = re.fullmatch(
        r'([a-z-]+)_biformer-(tiny|small|base|stl)_(?:fpn_)?(.*)', path.stem
    ).groups()
    name = {'mask-rcnn': 'maskrcnn', 'fpn': 'sfpn'}.get(head, head)
    name += '_biformer' + ('' if arch == 'small' else f'_{arch}')
    name += '_3x' * schedule.startswith('ms-3x')
    cfg = Config.fromfile(path)
    assert cfg.to_dict() == read(name).to_dict()
    # What the name says besides.
    if path.parent.name == 'detection':
        epochs = cfg.train_cfg.max_epochs
        assert schedule == f'{"ms-" * (epochs > 12)}{epochs // 12}x_coco'
    else:
        images, iterations = (
            cfg.train_dataloader.batch_size,
            cfg.train_cfg.max_iters,
        )
        assert schedule == f'8xb{images}-{iterations // 1000}k_ade20k-512x512'


def test_every_recipe_has_a_long_name():
    own_data = ('digits', 'photos', 'linear')
    recipes = [
        path
        for path in RECIPES
        if not any(name in path.stem for name in own_data)
    ]
    assert len(ALIASES) == len(recipes) == 19


@pytest.mark.parametrize(
    ('head', 'suffix', 'arch', 'drop_path_rate'),
    [
        *(
            (head, *one)
            for head in ('maskrcnn', 'retinanet')
            for one in (
                ('', 'small', 0.2),
                ('_base', 'base', 0.3),
                ('_tiny', 'tiny', 0.1),
            )
        ),
        ('maskrcnn', '_stl', 'stl', 0.2),
    ],
)
def test_coco_recipe(head, suffix, arch, drop_path_rate):
    cfg = read(f'{head}_biformer{suffix}')
    expected = backbone_of(
        arch, n_win=16, drop_path_rate=drop_path_rate, norm_eval=True
    )
    neck = cfg.model.neck
    if head == 'maskrcnn':
        decay, norm_decay = 0.05, 0.0
        assert neck.in_channels == CHANNELS[arch]
        assert cfg.val_evaluator.metric == ['bbox', 'segm']
    else:
        decay = norm_decay = 1e-4
        # The FPN starts from the map of the second stage.
        expected['out_indices'] = (1, 2, 3)
        assert neck.in_channels == CHANNELS[arch][1:]
        assert (neck.start_level, neck.add_extra_convs) == (0, 'on_input')
        assert cfg.val_evaluator.metric == 'bbox'
    assert cfg.model.backbone == expected
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=decay
    )
    for name, value in weight_decays(cfg).items():
        assert value == (norm_decay if 'norm' in name else decay), name
    assert cfg.train_cfg.max_epochs == 12
    warmup, steps = cfg.param_scheduler
    assert warmup.type == 'LinearLR'
    assert (warmup.start_factor, warmup.end) == (0.001, 500)
    assert (steps.milestones, steps.gamma) == ([8, 11], 0.1)
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_dataloader.batch_size == 2
    resize = settings_of(cfg.train_dataloader.dataset.pipeline, 'Resize')
    assert (resize.scale, resize.keep_ratio) == ((1333, 800), True)


def test_3x_recipe():
    cfg, shorter = read('maskrcnn_biformer_3x'), read('maskrcnn_biformer')
    assert cfg.train_cfg.max_epochs == 36
    warmup, steps = cfg.param_scheduler
    assert warmup == shorter.param_scheduler[0]
    assert (steps.milestones, steps.end) == ([27, 33], 36)
    pipeline = cfg.train_dataloader.dataset.pipeline
    resize = settings_of(pipeline, 'RandomResize')
    assert resize.scale == [(1333, 480), (1333, 800)]
    assert len(pipeline) == len(shorter.train_pipeline)
    for key in ('model', 'optim_wrapper', 'val_dataloader'):
        assert cfg[key] == shorter[key]


def cosine(iteration):
    """The authors' schedule: the warm-up is a factor on the cosine."""
    warmup = 1 - 0.9 * (1 - min(iteration, 1000) / 1000)
    return warmup * (1 + math.cos(math.pi * iteration / 80000)) / 2


def poly(iteration):
    warmup = 1 - (1 - 1e-6) * (1 - min(iteration, 1500) / 1500)
    return warmup * (1 - iteration / 160000)


@pytest.mark.parametrize(
    ('name', 'arch', 'drop_path_rate'),
    [
        ('sfpn_biformer', 'small', 0.15),
        ('sfpn_biformer_base', 'base', 0.3),
        ('sfpn_biformer_tiny', 'tiny', 0.1),
        ('upernet_biformer', 'small', 0.3),
        ('upernet_biformer_base', 'base', 0.4),
        ('upernet_biformer_tiny', 'tiny', 0.2),
        ('upernet_biformer_stl', 'stl', 0.3),
    ],
)
def test_ade20k_recipe(name, arch, drop_path_rate):
    cfg = read(name)
    assert cfg.model.pretrained is None
    assert cfg.model.backbone == backbone_of(
        arch, n_win=8, drop_path_rate=drop_path_rate
    )
    assert cfg.sync_bn == 'torch'
    assert cfg.model.decode_head.norm_cfg.type == 'SyncBN'
    assert cfg.model.decode_head.num_classes == 150
    assert cfg.model.data_preprocessor.size == (512, 512)
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert settings_of(pipeline, 'RandomCrop').crop_size == (512, 512)
    test_pipeline = cfg.test_dataloader.dataset.pipeline
    assert cfg.val_dataloader.dataset.pipeline == test_pipeline
    types = [step['type'] for step in test_pipeline]
    assert test_pipeline[1].scale == (2048, 512)
    scales, *others = cfg.tta_pipeline[1].transforms
    assert [step.scale[1] for step in scales] == [256, 384, 512, 640, 768, 896]
    if name.startswith('sfpn'):
        optimizer = dict(type='AdamW', lr=2e-4, weight_decay=1e-4)
        batch, iterations, schedule, norm_decay = 32, 80000, cosine, 1e-4
        assert cfg.model.neck.in_channels == CHANNELS[arch]
        assert types[1:3] == ['Resize', 'ResizeToMultiple']
        assert others[0] == test_pipeline[2:3]
    else:
        optimizer = dict(type='AdamW', lr=6e-5, weight_decay=0.01)
        batch, iterations, schedule, norm_decay = 16, 160000, poly, 0.0
        assert cfg.model.decode_head.in_channels == CHANNELS[arch]
        auxiliary = cfg.model.auxiliary_head
        assert auxiliary.type == 'FCNHead'
        assert auxiliary.in_channels == CHANNELS[arch][2]
        assert (auxiliary.in_index, auxiliary.num_classes) == (2, 150)
        assert 'ResizeToMultiple' not in types
    assert cfg.optim_wrapper.optimizer == optimizer
    for parameter, value in weight_decays(cfg).items():
        decay = (
            norm_decay if 'norm' in parameter else optimizer['weight_decay']
        )
        assert value == decay, parameter
    # On 8 GPUs.
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.train_dataloader.batch_size * 8 == batch
    assert cfg.train_cfg.max_iters == iterations
    steps = [0, 500, 1400, 1600, 3000, 8000]
    assert learning_rates(cfg, steps) == pytest.approx(
        [schedule(step) for step in steps], rel=2e-3
    )
    assert [s.end for s in cfg.param_scheduler][1] == iterations


def test_print_config(run_tool, tmp_path):
    path = ROOT / 'configs/segmentation/upernet_biformer_base.py'
    saved = tmp_path / 'merged.py'
    arguments = [path, '--save-path', saved, '--cfg-options', 'model.x=1']
    printed = run_tool('misc/print_config.py', *arguments).stdout
    expected = Config.fromfile(path)
    expected.merge_from_dict({'model.x': 1})
    assert printed == f'Config:\n{expected.pretty_text}\n'
    assert Config.fromfile(saved).to_dict() == expected.to_dict()
    again = run_tool('misc/print_config.py', *arguments, check=False)
    assert again.returncode == 1
    assert f"--save-path='{saved}' exists already" in again.stderr
