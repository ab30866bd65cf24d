from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmbiformer import BiFormer
from mmbiformer.ops import pad_to_regions, regions_to_map
from mmbiformer.utils.errors import ConfigError
from mmbiformer.visualization import (
    ImageGeometry,
    RegionGrid,
    record_routing,
    resolve_layer,
)
from mmbiformer.visualization.recording import find_layers

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/detection/maskrcnn_biformer_digits.py'
ARCH = dict(depths=(1, 2, 2, 1), dims=(32, 32, 64, 64))


def make_model(n_win=4, topks=(2, 4, 5, -2), **kwargs):
    torch.manual_seed(0)
    model = BiFormer(arch=ARCH, n_win=n_win, topks=topks, **kwargs)
    model.init_weights()
    return model.eval()


@torch.no_grad()
def test_identical_far_apart_patches_are_routed_to_each_other():
    """Against the affinities of all pairs of regions, by hand."""
    model = make_model(n_win=8)
    image = torch.zeros(1, 3, 256, 256)
    patch = torch.rand(3, 32, 32)
    one, other = 9, 54  # the regions at row 1, column 1 and row 6, column 6
    for region in (one, other):
        row, column = divmod(region, 8)
        place = (slice(32 * row, 32 * row + 32),)
        place += (slice(32 * column, 32 * column + 32),)
        image[(0, slice(None), *place)] = patch

    layer = model.stages[0][0].attn
    with record_routing(model, [(1, 1)], keep_inputs=True) as records:
        model(image)
    x = records[1, 1]._input[0]
    descriptors = torch.stack(
        [
            x[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].mean((0, 1))
            for r in range(8)
            for c in range(8)
        ]
    )
    # Queries and keys tell how much a region is like the patch.
    background = descriptors[20]
    direction = descriptors[one] - background
    linear = layer.qkv.qkv
    for begin in (0, 32):
        linear.weight[begin : begin + 32] = 0
        linear.weight[begin] = direction
        linear.bias[begin : begin + 32] = 0
        linear.bias[begin] = -direction @ background
    with record_routing(model, [(1, 1)]) as records:
        model(image)
    record = records[1, 1]

    qkv = descriptors @ linear.weight.T + linear.bias
    affinity = qkv[:, :32] @ qkv[:, 32:64].T * 32**-0.5
    expected = affinity.topk(2, dim=-1)
    torch.testing.assert_close(record.affinity[0], expected.values)
    for region in (one, other):
        assert set(record.routing[0, region].tolist()) == {one, other}
        assert set(expected.indices[region].tolist()) == {one, other}
    # Through pixels: a point on the one patch looks at the other.
    geometry = ImageGeometry((256, 256))
    routed = record.routing[0, record.grid.region_at((40, 50), geometry)]
    assert record.grid.region_at((200, 220), geometry) in routed.tolist()


@torch.no_grad()
def test_every_route_is_that_of_the_topk_by_hand():
    model = make_model()
    with record_routing(model, keep_inputs=True) as records:
        model(torch.rand(2, 3, 75, 109))
    assert list(records) == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2)]
    for record in records.values():
        x, grid = record._input, record.grid
        assert tuple(x.shape[1:3]) == grid.map_size
        padded = x.new_zeros(2, *grid.padded_size, x.shape[-1])
        padded[:, : grid.map_size[0], : grid.map_size[1]] = x
        q, k, _ = record._layer.project(padded)
        regions = [
            [
                divmod(i, 4)[0] * grid.region_size[0],
                i % 4 * grid.region_size[1],
            ]
            for i in range(16)
        ]

        def means(maps, regions=regions, size=grid.region_size):
            return torch.stack(
                [
                    maps[:, y : y + size[0], x : x + size[1]].mean((1, 2))
                    for y, x in regions
                ],
                dim=1,
            )

        affinity = means(q) @ means(k).mT * x.shape[-1] ** -0.5
        topk = affinity.topk(record.routing.shape[-1], dim=-1)
        torch.testing.assert_close(record.affinity, topk.values)
        chosen = affinity.gather(-1, record.routing)
        torch.testing.assert_close(chosen, topk.values)


@torch.no_grad()
def test_attention_is_what_the_layer_computes():
    """Of queries in a padded map, put together again to the output."""
    model = make_model()
    for key in [(1, 1), (3, -1), (4, 1)]:
        with record_routing(model, [key], True, routed=False) as records:
            model(torch.rand(2, 3, 75, 109))
        record = records[key]
        layer, x = record._layer, record._input
        padded = x.new_zeros(2, *record.grid.padded_size, x.shape[-1])
        padded[:, : x.shape[1], : x.shape[2]] = x
        v = layer.project(padded)[2]
        tokens = [(0, 0), (x.shape[1] - 1, x.shape[2] - 1), (1, 2)]
        weights = record.attention(tokens, index=1, average=False)
        torch.testing.assert_close(
            weights.sum((-2, -1)), torch.ones(weights.shape[:2])
        )
        torch.testing.assert_close(
            record.attention(tokens, index=1), weights.mean(1)
        )
        heads = v[1].unflatten(-1, (layer.num_heads, -1))
        out = torch.einsum('qhyx,yxhc->qhc', weights, heads).flatten(1)
        local = layer.lepe((x if key[0] == 4 else v).permute(0, 3, 1, 2))
        last = layer.proj if key[0] == 4 else layer.wo
        for token, value in zip(tokens, out, strict=True):
            expected = layer(x)[1, token[0], token[1]]
            value = last(value + local[1, :, token[0], token[1]])
            torch.testing.assert_close(value, expected)


def test_attention_of_soft_routing_is_what_the_layer_computes():
    model = make_model(attn_cfg=dict(soft_routing=True, diff_routing=True))
    with record_routing(model, keep_inputs=True) as records:
        model(torch.rand(1, 3, 75, 109))
    record = records[3, -1]
    assert not record.affinity.requires_grad
    layer, x = record._layer, record._input
    with torch.no_grad():
        v = layer.project(pad_to_regions(x, 4))[2]
        # The values are weighted as well: by the region, not by the token.
        routed = record.routing[0, record.grid.region_of_token((1, 2))]
        affinity = record.affinity[0, record.grid.region_of_token((1, 2))]
        factors = v.new_zeros(16).index_add(0, routed, affinity.softmax(0))
        tokens = v.shape[1] * v.shape[2] // 16
        factors = regions_to_map(
            factors.view(1, 16, 1, 1).expand(-1, -1, tokens, -1),
            record.grid.padded_size, 4,
        )  # fmt: skip
        heads = (factors * v)[0].unflatten(-1, (layer.num_heads, -1))
        (weights,) = record.attention([(1, 2)], average=False)
        value = torch.einsum('hyx,yxhc->hc', weights, heads).flatten()
        local = layer.lepe(v.permute(0, 3, 1, 2))[0, :, 1, 2]
        torch.testing.assert_close(layer.wo(value + local), layer(x)[0, 1, 2])


def test_layers_without_attention_of_tokens():
    pooled = dict(kv_downsample_mode='ada_avgpool', kv_per_win=1)
    model = make_model(topks=(0, 2, 2, -1), attn_cfg=pooled)
    assert {stage for stage, _ in find_layers(model)} == {2, 3, 4}
    with pytest.raises(ConfigError, match=r'one of \[2, 3, 4\].*stage=1'):
        resolve_layer(model, 1)
    with record_routing(model, keep_inputs=True) as records:
        model(torch.rand(1, 3, 75, 109))
    with pytest.raises(ConfigError, match='stage 2, block 1 .*pooled keys'):
        records[2, 1].attention([(0, 0)])


def hooks_of(model):
    return [
        hook
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks
    ]


@torch.no_grad()
def test_layers_of_the_other_layout():
    """Their blocks have names of their own."""
    arch = dict(ARCH, layout='stl')
    model = BiFormer(arch, n_win=4, topks=(2, 4, 5, -2)).eval()
    assert list(find_layers(model)) == list(find_layers(make_model()))
    assert resolve_layer(model, 3) == (3, 2)
    with record_routing(model, keep_inputs=True) as records:
        model(torch.rand(1, 3, 128, 128))
    assert records[3, -1].routing.shape == (1, 16, 5)
    attention = records[1, 1].attention([(0, 0), (31, 5)])
    assert attention.shape == (2, 32, 32)
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2))


@pytest.mark.parametrize('with_cp', [False, True])
def test_outputs_and_gradients_stay_the_same_bit_by_bit(with_cp):
    model = make_model(with_cp=with_cp)
    x = torch.rand(1, 3, 75, 109, requires_grad=True)

    def run():
        outs = model(x)
        (gradient,) = torch.autograd.grad(sum(map(torch.sum, outs)), x)
        return [*outs, gradient]

    plain = run()
    with record_routing(model, keep_inputs=True) as records:
        recorded = run()
    assert len(records) == 5
    for a, b in zip(plain, recorded, strict=True):
        assert torch.equal(a, b)
    assert hooks_of(model) == []
    before = dict(records)
    model(x)
    assert all(records[key] is before[key] for key in before)


def test_hooks_are_removed_after_an_error():
    model = make_model()
    with pytest.raises(ValueError, match='of shape'), record_routing(model):
        model(torch.rand(1, 4, 64, 64))
    assert hooks_of(model) == []


@torch.no_grad()
def test_it_works_at_full_size():
    model = make_model(n_win=16)
    with record_routing(model, keep_inputs=True) as records:
        model(torch.rand(1, 3, 800, 1333))
    assert records[1, 1].grid == RegionGrid(16, (200, 334), 4)
    assert records[3, -1].grid == RegionGrid(16, (50, 84), 16)
    assert records[1, 1].attention([(3, 333)]).shape == (1, 208, 336)


@torch.no_grad()
def test_a_wrapped_detector_with_resizing_and_padding():
    """The preprocessor pads 70 x 110 to 96 x 128; the image was 35 x 55."""
    cfg = Config.fromfile(CONFIG)
    with DefaultScope.overwrite_default_scope('mmdet'):
        from mmdet.structures import DetDataSample

        detector = MODELS.build(cfg.model).eval()
        sample = DetDataSample(
            metainfo=dict(
                ori_shape=(35, 55), img_shape=(70, 110), scale_factor=(2, 2)
            )
        )
        data = dict(
            inputs=[torch.randint(0, 256, (3, 70, 110), dtype=torch.uint8)],
            data_samples=[sample],
        )
        data = detector.data_preprocessor(data)
        dist.init_process_group(
            'gloo', store=dist.HashStore(), rank=0, world_size=1
        )
        try:
            wrapped = DistributedDataParallel(detector)
            with record_routing(wrapped, [(3, -1)]) as records:
                (out,) = wrapped(**data, mode='predict')
        finally:
            dist.destroy_process_group()
    record = records[3, -1]
    assert record.grid == RegionGrid(5, (6, 8), 16)
    geometry = ImageGeometry.from_metainfo(out.metainfo)
    assert geometry == ImageGeometry((35, 55), (2, 2))
    # (54, 34) is (108, 68) in the input: token (4, 6), in regions of 2 x 2.
    assert record.grid.region_at((54, 34), geometry) == 2 * 5 + 3
    # 6 rows fill three rows of regions, and the image ends in the third.
    assert record.grid.region_box(13, geometry) == (48, 32, 55, 35)


class TestBadInput:
    def test_no_biformer(self):
        with (
            pytest.raises(ValueError, match='this Linear contains 0'),
            record_routing(nn.Linear(1, 1)),
        ):
            pass

    def test_two_of_them(self):
        models = nn.ModuleList([make_model(), make_model()])
        with pytest.raises(ValueError, match='contains 2'):
            resolve_layer(models, 1)

    @pytest.mark.parametrize(
        ('stage', 'block', 'message'),
        [
            (0, -1, r'one of \[1, 2, 3, 4\], got stage=0'),
            (5, -1, 'got stage=5'),
            (3, 3, 'between 1 and 2.*stage 3, got block=3'),
            (3, 0, 'got block=0'),
            (3, -3, 'got block=-3'),
            (4, -1, r'stage=4 has global attention.*\[1, 2, 3\]'),
        ],
    )
    def test_layers_that_are_not_there(self, stage, block, message):
        with pytest.raises(ValueError, match=message):
            resolve_layer(make_model(), stage, block)

    def test_negative_blocks_count_from_the_end(self):
        assert resolve_layer(make_model(), 3, -2) == (3, 1)
        assert resolve_layer(make_model(), 4, routed=False) == (4, 1)

    def test_attention_without_inputs(self):
        model = make_model()
        with record_routing(model, [(3, -1)]) as records:
            model(torch.rand(1, 3, 64, 64))
        with pytest.raises(RuntimeError, match='keep_inputs=True'):
            records[3, -1].attention([(0, 0)])
        with pytest.raises(KeyError, match='stage 2, block -1 was not'):
            records[2, -1]

    def test_tokens_outside_the_map(self):
        model = make_model()
        with record_routing(model, [(3, -1)], keep_inputs=True) as records:
            model(torch.rand(1, 3, 64, 64))
        with pytest.raises(ValueError, match=r'token=\(4, 0\).*4 rows'):
            records[3, -1].attention([(4, 0)])
