"""The recipes of ImageNet, and classifiers with the authors' weights."""

import copy
import math
import re
from argparse import Namespace

import numpy as np
import pytest
import reference
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from PIL import Image
from shipped import ALIASES, CONFIGS, ROOT

from mmbiformer import BiFormer
from mmbiformer.checkpoints.convert import convert_checkpoint
from mmbiformer.checkpoints.io import save_atomically
from mmbiformer.checkpoints.strict import strict_loading
from mmbiformer.checkpoints.weights import load_all_weights
from mmbiformer.reliable.runner import CheckedRunner
from mmbiformer.utils.config import build_model, read_config
from mmbiformer.utils.errors import CheckpointError
from mmbiformer.utils.synthetic import random_batch

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.classification

FOLDER = ROOT / 'configs/classification'
RECIPES = [path for path in CONFIGS if path.parent == FOLDER]
# The authors' README names that of S, and the paper those of T and B; that of
# STL is Swin-T's.
DROP_PATH = dict(tiny=0.1, small=0.15, base=0.4, stl=0.2)
TOY = dict(depths=(1, 1, 1, 1), dims=[32, 32, 32, 64])


def read(arch):
    return read_config(str(FOLDER / f'biformer_{arch}.py'))


def toy(arch='small', num_classes=5):
    """A recipe with a small backbone and few classes."""
    cfg = read(arch)
    layout = cfg.model.backbone.arch.get('layout', 'biformer')
    cfg.model.backbone.arch = dict(TOY, layout=layout)
    cfg.model.head.update(in_channels=64, num_classes=num_classes)
    cfg.model.data_preprocessor.num_classes = num_classes
    return cfg


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_classifier_trains_and_predicts(path):
    torch.manual_seed(0)
    cfg = read_config(str(path))
    cfg.model.backbone.arch.depths = (1, 1, 1, 1)
    cfg.model.backbone.init_cfg = None
    model = build_model(cfg)
    augments = model.data_preprocessor.batch_augments
    images, samples = random_batch(model, 'mmpretrain', (64, 64), 2)
    model.data_preprocessor.batch_augments = augments
    raw = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    data = dict(inputs=list(raw), data_samples=samples)
    data = model.data_preprocessor(data, True)
    model.train()
    total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert total.isfinite()
    for name, parameter in model.named_parameters():
        # Distributed training stops at one without a gradient.
        assert (parameter.grad is None) != parameter.requires_grad, name
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {'head.fc.weight', 'head.fc.bias'} or (
        'backbone.norm.weight' in trained and 'linear' not in path.stem
    )
    model.eval()
    with torch.no_grad():
        results = model(images, samples, mode='predict')
    for result in results:
        assert result.pred_score.shape == (cfg.model.head.num_classes,)
        assert result.pred_score.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    'path', [p for p in ALIASES if p.parent == FOLDER], ids=lambda p: p.stem
)
def test_long_names_stand_for_recipes(path):
    arch, schedule = re.fullmatch(
        r'biformer-([a-z]+)_(\w+)', path.stem
    ).groups()
    cfg = read(arch)
    assert read_config(str(path)).to_dict() == cfg.to_dict()
    assert schedule == f'8xb{cfg.train_dataloader.batch_size}_in1k'


def learning_rate(epoch):
    """timm's schedule, which has a step for each epoch."""
    if epoch < 5:
        return 1e-6 + epoch * (1e-3 - 1e-6) / 5
    half = (1 + math.cos(math.pi * epoch / 300)) / 2
    return 1e-5 + (1e-3 - 1e-5) * half


@pytest.mark.parametrize('arch', DROP_PATH)
def test_recipe(arch):
    cfg = read(arch)
    backbone = cfg.model.backbone
    by_name = BiFormer(arch, out_indices=(0,))
    in_full = BiFormer(backbone.arch.to_dict(), out_indices=(0,))
    assert repr(by_name) == repr(in_full)
    assert list(backbone.arch.dims) == list(BiFormer.arch_zoo[arch]['dims'])
    assert backbone.arch.depths == BiFormer.arch_zoo[arch]['depths']
    assert (backbone.n_win, backbone.topks) == (7, (1, 4, 16, -2))
    assert backbone.drop_path_rate == DROP_PATH[arch]
    assert 'init_cfg' not in backbone
    # 1,024 images on 8 GPUs.
    assert cfg.train_dataloader.batch_size * 8 == 1024
    assert cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.train_cfg.max_epochs == 300
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(settings, optimizer=optimizer))
        for settings in cfg.param_scheduler
    ]
    optimizer.step()
    for epoch in range(300):
        rate = optimizer.param_groups[0]['lr']
        assert rate == pytest.approx(learning_rate(epoch), rel=2e-3), epoch
        for scheduler in schedulers:
            scheduler.step()


@pytest.mark.parametrize('arch', ['small', 'stl'])
def test_what_does_not_decay(arch):
    """timm's rule: biases, and parameters of one dimension."""
    cfg = toy(arch)
    model = build_model(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decays = {
        id(value): (group['weight_decay'], group['lr'])
        for group in wrapper.optimizer.param_groups
        for value in group['params']
    }
    assert type(wrapper.optimizer).__name__ == 'AdamW'
    for name, value in model.named_parameters():
        spared = value.ndim <= 1 or name.endswith('.bias')
        assert decays[id(value)] == (0.0 if spared else 0.05, 1e-3), name


def test_augmentations():
    cfg = read('small')
    init_default_scope('mmpretrain')
    dataset = cfg.train_dataloader.dataset
    assert (dataset.type, dataset.split) == ('ImageNet', 'train')
    steps = {step.type: step for step in dataset.pipeline}
    # No colour jitter under RandAugment.
    assert list(steps) == [
        'LoadImageFromFile',
        'RandomResizedCrop',
        'RandomFlip',
        'RandAugment',
        'RandomErasing',
        'PackInputs',
    ]
    crop = steps['RandomResizedCrop']
    assert (crop.scale, crop.interpolation) == (224, 'bicubic')
    policy = steps['RandAugment']
    assert policy.policies == 'timm_increasing'
    assert (policy.num_policies, policy.total_level) == (2, 10)
    assert (policy.magnitude_level, policy.magnitude_std) == (9, 0.5)
    erasing = steps['RandomErasing']
    assert (erasing.erase_prob, erasing.mode) == (0.25, 'rand')
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
    assert cfg.train_dataloader.sampler.num_repeats == 3
    assert cfg.train_dataloader.drop_last
    model = build_model(cfg)
    mix = model.data_preprocessor.batch_augments
    assert mix.probs is None
    assert [(type(a).__name__, a.alpha) for a in mix.augments] == [
        ('Mixup', 0.8),
        ('CutMix', 1.0),
    ]
    (ema,) = cfg.custom_hooks
    assert (ema.type, ema.update_buffers) == ('EMAHook', True)
    assert 1 - ema.momentum == pytest.approx(0.99996)
    assert cfg.val_evaluator.topk == (1, 5)


def test_loss_is_timms():
    """Labels are smoothed, then mixed; the loss is soft cross entropy."""
    cfg = toy()
    loss = build_model(cfg).head.loss_module
    torch.manual_seed(0)
    logits, lam = torch.randn(4, 5).double(), 0.3
    labels = torch.tensor([0, 3, 2, 2])
    smooth = torch.full((4, 5), 0.1 / 5).double()
    smooth[range(4), labels] += 0.9
    soft = lam * smooth + (1 - lam) * smooth.flip(0)
    expected = -(soft * logits.log_softmax(1)).sum(1).mean()
    hard = torch.nn.functional.one_hot(labels, 5).double()
    mixed = lam * hard + (1 - lam) * hard.flip(0)
    torch.testing.assert_close(loss(logits, mixed).double(), expected)


def test_average_of_weights_is_timms():
    """Weights and statistics of batches, with the decay 0.99996."""
    (settings,) = read('small').custom_hooks
    torch.manual_seed(0)
    model = torch.nn.BatchNorm2d(3).double()
    average = ExponentialMovingAverage(
        model, settings.momentum, update_buffers=settings.update_buffers
    )
    average.update_parameters(model)
    expected = copy.deepcopy(model.state_dict())
    for _ in range(3):
        model(torch.rand(2, 3, 4, 4).double())
        torch.nn.init.normal_(model.weight)
        average.update_parameters(model)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = 0.99996 * expected[name] + 4e-5 * value
    for name in ('weight', 'running_mean', 'running_var'):
        found = average.module.state_dict()[name]
        torch.testing.assert_close(found, expected[name], rtol=1e-12, atol=0)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Two classes of two photographs, in folders as ImageNet's."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('n01', 'n02'):
            (folder / split / name).mkdir(parents=True)
            for i in range(2):
                noise = rng.integers(0, 256, (30, 40, 3), np.uint8)
                image = Image.fromarray(noise).resize((400, 300))
                image.save(folder / split / name / f'{i}.png')
    return folder


def test_pipelines(photos):
    from mmcv.transforms import Compose

    cfg = read('small')
    init_default_scope('mmpretrain')
    path = photos / 'train/n01/0.png'
    np.random.seed(0)
    train = Compose(cfg.train_dataloader.dataset.pipeline)
    for _ in range(30):
        inputs = train(dict(img_path=str(path), gt_label=1))['inputs']
        assert inputs.shape == (3, 224, 224)
        assert inputs.dtype == torch.uint8
    test = Compose(cfg.test_dataloader.dataset.pipeline)
    inputs = test(dict(img_path=str(path), gt_label=1))['inputs']
    # The shorter side becomes 256, and the centre is kept.
    image = Image.open(path).resize((341, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(image)[16:240, 58:282]
    found = inputs.flip(0).permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - expected).max() == 0


@pytest.mark.parametrize('arch', ['small', 'stl'])
def test_equals_the_authors(arch):
    """A released file, and the logits of the authors' implementation."""
    arrays = reference.load(f'{arch}_cls_224')
    seed = int(arrays['seed'])
    weights = reference.make_weights(reference.released_shapes(arch), seed)
    content = dict(model=weights, optimizer={}, args=Namespace(lr=1e-3))
    model = build_model(read(arch)).double()
    load_all_weights(model, content, 'released.pth')
    with torch.no_grad():
        logits = model(reference.make_input(arrays['shape'], seed))
    expected = torch.from_numpy(arrays['logits'])
    error = (logits - expected).abs().max() / expected.abs().max()
    assert error < 1e-6
    order = logits.argsort(descending=True)[0, :5]
    assert torch.equal(order, expected.argsort(descending=True)[0, :5])


def released(cfg):
    """Weights as the authors' classifiers have them, for a config."""
    names = {
        name.replace('head.fc.', 'head.').removeprefix('backbone.'): value
        for name, value in build_model(cfg).state_dict().items()
    }
    torch.manual_seed(1)
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value
        for name, value in names.items()
    }


def assert_whole(model, weights):
    own = model.state_dict()
    assert len(own) == len(weights)
    for name, value in weights.items():
        key = f'backbone.{name}'
        if name.startswith('head.'):
            key = name.replace('head.', 'head.fc.')
        assert torch.equal(own[key].to(value.dtype), value), name


def initialize(cfg, path):
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model = MODELS.build(cfg.model)
    with strict_loading():
        model.init_weights()
    return model


def convert(cfg, path):
    content = torch.load(path, weights_only=True)
    content, fates = convert_checkpoint(content, cfg, str(path))
    assert fates['left out'] == fates['initial'] == []
    path = save_atomically(content, path.with_name('ours.pth'))
    model = MODELS.build(cfg.model)
    load_all_weights(model, torch.load(path, weights_only=True), str(path))
    return model


def load_from(cfg, path):
    cfg.load_from = str(path)
    cfg.work_dir = str(path.parent / 'work_dir')
    cfg = Config(
        dict(
            model=cfg.model,
            work_dir=cfg.work_dir,
            load_from=str(path),
            default_scope='mmpretrain',
            custom_hooks=cfg.custom_hooks,
        )
    )
    runner = CheckedRunner.from_cfg(cfg)
    runner.call_hook('before_run')
    runner.load_or_resume()
    return runner.model


@pytest.mark.parametrize('way', [initialize, convert, load_from])
@pytest.mark.parametrize('arch', ['small', 'stl'])
class TestReleasedFile:
    @pytest.fixture
    def weights(self, arch):
        return released(toy(arch))

    @pytest.fixture
    def path(self, tmp_path, weights):
        path = tmp_path / 'released.pth'
        torch.save(dict(model=weights, epoch=299), path)
        return path

    def test_it_is_loaded_whole(self, way, arch, path, weights):
        assert_whole(way(toy(arch), path), weights)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda w: w.pop('norm.running_var'), 'backbone.norm.running_var'),
            (lambda w: w.pop('head.bias'), 'head.fc.bias'),
            (
                lambda w: [w.pop(f'head.{x}') for x in ('weight', 'bias')],
                'head.fc.weight, head.fc.bias',
            ),
            (lambda w: w.update({'stem.x': torch.ones(1)}), 'backbone.stem.x'),
            (
                lambda w: w.update({'head.weight': torch.ones(1000, 64)}),
                r'head\.fc\.weight.*1000',
            ),
        ],
    )
    def test_another_is_refused(
        self, way, arch, path, weights, change, message
    ):
        change(weights)
        torch.save(dict(model=weights), path)
        with pytest.raises(CheckpointError, match=f'(?s)not fit.*{message}'):
            way(toy(arch), path)


def train(photos, work_dir, **settings):
    """Train the recipe with a small backbone on photographs."""
    cfg = toy(num_classes=2)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(photos)
        loader.dataset.metainfo = dict(classes=('a', 'b'))
    cfg.test_dataloader = cfg.val_dataloader
    cfg.val_evaluator.topk = (1,)
    cfg.test_evaluator = cfg.val_evaluator
    cfg.train_cfg.max_epochs = 2
    cfg.default_hooks.logger.interval = 1
    cfg.randomness.seed = 0
    cfg.work_dir = str(work_dir)
    cfg.merge_from_dict(settings)
    CheckedRunner.from_cfg(cfg).train()
    return cfg


def test_it_resumes_exactly(photos, tmp_path):
    """With Mixup, CutMix, repeated augmentation and the average."""
    train(photos, tmp_path / 'whole')
    part = tmp_path / 'part'
    train(photos, part, **{'train_cfg.max_epochs': 1})
    train(photos, part, resume=True, extend_schedule=True)
    whole, resumed = (
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True)
        for name in ('whole', 'part')
    )
    for key in ('state_dict', 'ema_state_dict'):
        assert whole[key].keys() == resumed[key].keys()
        for name, value in whole[key].items():
            assert torch.equal(value, resumed[key][name]), (key, name)


def test_from_classes_to_detection(photos, tmp_path):
    """A run from a released file; its checkpoint starts a detector's."""
    path = tmp_path / 'released.pth'
    torch.save(dict(model=released(toy(num_classes=2))), path)
    settings = {'load_from': str(path), 'train_cfg.max_epochs': 1}
    cfg = train(photos, tmp_path / 'work_dir', **settings)
    trained = torch.load(tmp_path / 'work_dir/epoch_1.pth', weights_only=True)
    # Saved as the weights is their average.
    assert 'ema_state_dict' in trained
    backbone = cfg.model.backbone.to_dict()
    backbone |= dict(out_indices=(0, 1, 2, 3), final_norm=False, n_win=16)
    backbone['init_cfg'] = dict(
        type='Pretrained', checkpoint=str(tmp_path / 'work_dir/epoch_1.pth')
    )
    model = MODELS.build(backbone)
    model.init_weights()
    for name, value in model.state_dict().items():
        if not name.startswith('extra_norms.'):
            expected = trained['state_dict'][f'backbone.{name}']
            assert torch.equal(value, expected), name


@pytest.mark.parametrize('arch', ['tiny', 'stl'])
def test_flops_of_a_config_are_those_of_the_arch(run_tool, arch):
    def total(*arguments):
        text = run_tool('analysis_tools/get_flops.py', *arguments).stdout
        return re.search(r'total.*', text)[0].split()

    config = FOLDER / f'biformer_{arch}.py'
    assert total(config) == total('--arch', arch)


def test_it_is_measured(run_tool):
    text = run_tool(
        '../benchmarks/benchmark.py', '--configs',
        FOLDER / 'biformer_tiny.py', '--shapes', 64, '--batch-size', 2,
        '--train', '--repeat', 1, '--threads', 1,
    ).stdout  # fmt: skip
    assert 'biformer_tiny' in text
    assert 'Error' not in text


def test_backbones_of_classifiers_are_not_swapped(run_tool, tmp_path):
    result = run_tool(
        'model_converters/swap_backbone.py',
        FOLDER / 'biformer_tiny.py', tmp_path / 'out.py',
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert 'is for classification, not for one of' in result.stderr
