import mmdet.models  # noqa: F401
import mmseg.models  # noqa: F401
import pytest
import torch
from mmcv.cnn import build_plugin_layer
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmbiformer import BRANeck, BRAPlugin
from mmbiformer.utils.errors import ConfigError


def plugin(position='after_conv2', **cfg):
    """A plugin for the second stage of two."""
    cfg = dict(dict(type='BRAPlugin', n_win=4, topk=3), **cfg)
    return dict(cfg=cfg, stages=(False, True), position=position)


def resnet(plugins, type='mmdet.ResNet', **settings):
    torch.manual_seed(0)
    cfg = dict(
        type=type,
        depth=50,
        stem_channels=32,
        base_channels=32,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
        norm_eval=False,
        plugins=plugins,
    )
    return MODELS.build(dict(cfg, **settings))


def images(size=(72, 104)):
    """Images whose maps 4 regions a side do not divide."""
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def train_step(model, x):
    """Return the output and the gradients of all parameters by name."""
    model.train()
    model.zero_grad()
    (out,) = model(x)
    (out * out).mean().backward()
    return out, {name: p.grad for name, p in model.named_parameters()}


def set_layer_scale(model, value):
    for module in model.modules():
        if isinstance(module, BRAPlugin):
            nn.init.constant_(module.layer_scale, value)


@pytest.mark.parametrize(
    ('type', 'settings'),
    [
        ('mmdet.ResNet', dict()),
        ('mmdet.ResNet', dict(zero_init_residual=False, style='caffe')),
        ('mmdet.ResNeXt', dict(groups=32, base_width=1)),
        ('mmdet.Res2Net', dict(scales=2, base_width=32)),
        ('mmseg.ResNet', dict()),
        ('mmseg.ResNetV1c', dict()),
        ('mmseg.ResNeXt', dict(groups=32, base_width=1)),
    ],
)
def test_a_pretrained_resnet_starts_as_it_was(type, settings, tmp_path):
    """At all positions, and all parameters get a gradient."""
    if 'Res2Net' in type:
        settings = dict(settings, base_channels=64, stem_channels=64)
    plain = resnet(None, type, **settings)
    plain.init_weights()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    file = tmp_path / 'resnet.pth'
    torch.save(dict(state_dict=plain.state_dict()), file)
    model = resnet(
        [
            plugin('after_conv1'),
            plugin('after_conv2', postfix=2),
            plugin('after_conv3', postfix='_last', topk=4),
        ],
        type,
        init_cfg=dict(type='Pretrained', checkpoint=str(file)),
        **settings,
    )
    model.init_weights()
    names = dict(model.layer2[1].named_children())
    assert {'bra', 'bra2', 'bra_last'} <= set(names)
    assert names['bra_last'].attn.router.topk == 4
    assert 'bra' not in dict(model.layer1[0].named_children())
    weights = model.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(weights[name], value), name

    expected, _ = train_step(plain, images())
    out, grads = train_step(model, images())
    assert torch.equal(out, expected)
    assert all(grad is not None for grad in grads.values())
    scales = [grad for name, grad in grads.items() if 'layer_scale' in name]
    assert len(scales) == 12
    assert all(grad.any() for grad in scales)
    # Not the identity any more: the input of the plugin matters.
    set_layer_scale(model, 0.5)
    assert not torch.equal(train_step(model, images())[0], expected)


def test_initialization_is_that_of_biformer_within_a_resnet():
    model = resnet([plugin('after_conv3')])
    model.init_weights()
    layer = model.layer2[1].bra
    assert (layer.layer_scale == 0).all()
    assert (layer.norm.weight == 1).all()
    std = layer.attn.wo.weight.std().item()
    assert std == pytest.approx(0.02, rel=0.1)
    # Torch's own: uniform up to 1 / sqrt(25).
    weight = layer.attn.lepe.weight.detach()
    assert 0.19 < weight.abs().max() < 0.2
    assert weight.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.1)
    # ResNet's own is left alone.
    assert (model.layer2[1].bn3.weight == 0).all()


def test_two_plugins_at_one_position_are_both_computed_in_mmdet():
    model = resnet([plugin(), plugin(postfix=2, n_win=2)])
    layers = [model.layer2[0].bra, model.layer2[0].bra2]
    assert [layer.attn.n_win for layer in layers] == [4, 2]
    set_layer_scale(model, 0.5)
    _, grads = train_step(model, images())
    assert all(grad is not None for grad in grads.values())


def test_frozen_stages_and_checkpointing():
    settings = dict(frozen_stages=1, norm_eval=True)
    model = resnet([dict(plugin(), stages=(True, True))], **settings)
    model.init_weights()
    # The norms' zeros would hide the blocks.
    for name, parameter in model.named_parameters():
        if name.endswith('bn3.weight'):
            nn.init.constant_(parameter, 0.5)
    set_layer_scale(model, 0.5)
    out, grads = train_step(model, images())
    assert {grads[name] is None for name in grads if 'layer1' in name} == {
        True
    }
    for block in model.layer2:
        block.with_cp = True
    x = images().requires_grad_()
    again, recomputed = train_step(model, x)
    assert torch.equal(again, out)
    for name, grad in grads.items():
        if 'layer2' in name:
            assert grad.any()
            torch.testing.assert_close(recomputed[name], grad)


class TestBRAPlugin:
    @pytest.fixture
    def x(self):
        torch.manual_seed(0)
        return torch.rand(2, 64, 9, 13)

    @pytest.mark.parametrize(
        ('residual', 'scale'), [(True, 0.3), (True, None), (False, None)]
    )
    def test_formula(self, x, residual, scale):
        layer = BRAPlugin(64, 4, 3, residual=residual, layer_scale=scale)
        branch = layer.attn(layer.norm(x.permute(0, 2, 3, 1)))
        branch = branch.permute(0, 3, 1, 2) * (1 if scale is None else scale)
        expected = x + branch if residual else branch
        assert torch.equal(layer(x), expected)
        assert ('layer_scale' in dict(layer.named_parameters())) == (
            scale is not None
        )

    def test_defaults_are_the_identity_that_can_learn(self, x):
        layer = BRAPlugin(64)
        assert (layer.attn.n_win, layer.attn.router.topk) == (7, 4)
        assert layer.attn.num_heads == 2
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        weight = layer.attn.wo.weight.clone()
        target = torch.rand_like(x)
        assert torch.equal(layer(x), x)
        losses = []
        for _ in range(5):
            loss = (layer(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.99 * losses[0]
        assert not torch.equal(layer.attn.wo.weight, weight)

    @pytest.mark.parametrize('residual', [True, False])
    def test_autocast_keeps_the_type_of_the_map(self, x, residual):
        layer = BRAPlugin(64, 4, 3, residual=residual, layer_scale=0.1)
        expected = layer(x)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = layer(x.bfloat16())
        out.float().sum().backward()
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)
        assert layer.attn.qkv.qkv.weight.grad.isfinite().all()

    def test_compiles_without_graph_breaks(self, x):
        layer = BRAPlugin(64, 4, 3, layer_scale=0.1)
        compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
        torch.testing.assert_close(compiled(x), layer(x))

    @pytest.mark.parametrize('default_scope', [None, 'mmdet', 'mmseg'])
    def test_mmcv_builds_it_from_any_framework(self, default_scope):
        with DefaultScope.overwrite_default_scope(default_scope):
            name, layer = build_plugin_layer(
                dict(type='BRAPlugin', topk=2), postfix=3, in_channels=96
            )
        assert name == 'bra3'
        assert isinstance(layer, BRAPlugin)

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (dict(in_channels=48), 'head_dim=32, in_channels=48'),
            (dict(in_channels=64.0), 'in_channels=64.0'),
            (dict(in_channels=64, head_dim=0), 'head_dim=0'),
            (dict(in_channels=64, topk=50), 'n_win.*49.*topk=50'),
            (dict(in_channels=64, n_win=0), 'n_win=0'),
            (dict(in_channels=64, residual=1), 'residual=1'),
            (dict(in_channels=64, layer_scale='0'), "layer_scale='0'"),
            (dict(in_channels=64, residual=False), 'layer_scale=0.*None'),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            BRAPlugin(**arguments)

    def test_refuses_a_map_of_fewer_tokens_than_regions(self):
        layer = BRAPlugin(32)
        # As a panorama among other images gives it.
        for size in ((7, 7), (3, 9)):
            x = torch.rand(1, 32, *size)
            assert torch.equal(layer(x), x)
        with pytest.raises(ConfigError, match='n_win=7.* 6 x 5 tokens'):
            layer(torch.rand(1, 32, 6, 5))


class TestBRANeck:
    CHANNELS = [64, 128, 256, 512]

    def test_levels(self):
        neck = BRANeck(
            [32, 64, 96], levels=[0, 2], n_win=2, topk=1, layer_scale=1.0
        )
        assert neck.layers['2'].attn.n_win == 2
        maps = [torch.rand(1, c, 6, 6) for c in (32, 64, 96)]
        outs = neck(maps)
        assert torch.equal(outs[0], neck.layers['0'](maps[0]))
        assert outs[1] is maps[1]
        assert not torch.equal(outs[2], maps[2])
        with pytest.raises(ConfigError, match='3 maps, but it gets 2'):
            neck(maps[:2])

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (dict(in_channels=64), 'in_channels=64'),
            (dict(in_channels=[]), r'in_channels=\[\]'),
            (dict(in_channels=[64, 64], levels=[2]), r'0 to 1.*levels=\[2\]'),
            (dict(in_channels=[64, 64], levels=1), 'levels=1'),
            (dict(in_channels=[64, 40]), 'in_channels=40'),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            BRANeck(**arguments)

    def resnet18(self):
        return dict(
            type='ResNet', depth=18, out_indices=(0, 1, 2, 3), norm_eval=True
        )

    def refine(self, channels, levels):
        return dict(
            type='BRANeck', in_channels=channels, levels=levels, n_win=2
        )

    def check(self, cfg):
        """The model with the necks starts as the model without them."""
        outs = []
        for config in (cfg, dict(cfg, neck=cfg['neck'][1])):
            torch.manual_seed(0)
            model = MODELS.build(Config(config)._cfg_dict).train()
            model.init_weights()
            outs.append((model, model.extract_feat(images((64, 64)))))
        (model, maps), (plain, expected) = outs
        names = dict(model.neck.named_parameters())
        layers = [m for m in model.modules() if isinstance(m, BRAPlugin)]
        assert len(layers) == 3 and len(names) > 27
        assert len(maps) == len(expected)
        renamed = {
            name.replace('neck.', 'neck.1.'): value
            for name, value in plain.state_dict().items()
        }
        missing = model.load_state_dict(renamed, strict=False)
        assert not missing.unexpected_keys
        maps = model.extract_feat(images((64, 64)))
        for ours, theirs in zip(maps, expected, strict=True):
            assert torch.equal(ours, theirs)
        sum(level.square().mean() for level in maps).backward()
        for parameter in model.neck.parameters():
            assert parameter.grad is not None

    def test_around_the_neck_of_a_detector(self):
        neck = [
            self.refine(self.CHANNELS, (2, 3)),
            dict(
                type='FPN',
                in_channels=self.CHANNELS,
                out_channels=64,
                num_outs=4,
            ),
            self.refine(4 * [64], (1,)),
        ]
        with DefaultScope.overwrite_default_scope('mmdet'):
            self.check(
                dict(
                    type='SingleStageDetector',
                    backbone=self.resnet18(),
                    neck=neck,
                    bbox_head=dict(
                        type='RetinaHead', num_classes=2, in_channels=64
                    ),
                )
            )

    def test_around_the_neck_of_a_segmentor(self):
        neck = [
            self.refine(self.CHANNELS, (2, 3)),
            dict(
                type='FPN',
                in_channels=self.CHANNELS,
                out_channels=64,
                num_outs=4,
            ),
            self.refine(4 * [64], (1,)),
        ]
        with DefaultScope.overwrite_default_scope('mmseg'):
            self.check(
                dict(
                    type='EncoderDecoder',
                    backbone=self.resnet18(),
                    neck=neck,
                    decode_head=dict(
                        type='FCNHead',
                        in_channels=64,
                        channels=64,
                        num_classes=2,
                    ),
                    test_cfg=dict(mode='whole'),
                )
            )
