import copy
import inspect
import re

import pytest
import reference
import torch
from mmengine.model import PretrainedInit, Sequential
from mmengine.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from mmbiformer import BiFormer
from mmbiformer.models import BiLevelRoutingAttention, authors_options
from mmbiformer.models.arch import Arch
from mmbiformer.models.block import MLP, BiFormerBlock
from mmbiformer.models.stage import ATTN_CFG_KEYS
from mmbiformer.ops import ATTENTION_BACKENDS, layers
from mmbiformer.utils.errors import CheckpointError, ConfigError

# Without a GPU, triton is sdpa.
BACKENDS = [name for name in ATTENTION_BACKENDS if name != 'triton']
TOY = dict(depths=(1, 1, 2, 1), dims=(32, 32, 64, 64))


def relative_error(actual, expected):
    expected = torch.as_tensor(expected).double()
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


class TestFaithful:
    @pytest.mark.parametrize('backend', BACKENDS)
    @pytest.mark.parametrize('case', ['tiny_64x96', 'small_n8_100x132'])
    def test_equals_the_authors(self, case, backend):
        arrays = reference.load(case)
        seed = int(arrays['seed'])
        model = BiFormer(
            arch=str(arrays['arch']),
            n_win=int(arrays['n_win']),
            attn_backend=backend,
        )
        model = reference.fill(model, seed)
        x = reference.make_input(arrays['shape'], seed).requires_grad_()
        outs = model(x)
        for i, out in enumerate(outs):
            assert relative_error(out, arrays[f'out{i}']) < 1e-6
        if 'grad_input' not in arrays:
            return
        sum((out * out).mean() for out in outs).backward()
        assert relative_error(x.grad, arrays['grad_input']) < 1e-6
        parameters = dict(model.named_parameters())
        names = arrays['grad_names'].tolist()
        assert set(names) == set(parameters)
        norms = torch.stack([parameters[name].grad.norm() for name in names])
        torch.testing.assert_close(
            norms, torch.from_numpy(arrays['grad_norms']), rtol=1e-6, atol=0
        )

    @pytest.mark.parametrize('case', ['small_cls_224', 'stl_cls_224'])
    @pytest.mark.parametrize('mode', [torch.enable_grad, torch.no_grad])
    def test_equals_the_authors_classifiers(self, case, mode):
        arrays = reference.load(case)
        arch, seed = str(arrays['arch']), int(arrays['seed'])
        shapes = reference.released_shapes(arch)
        weights = reference.make_weights(shapes, seed)
        head = [weights.pop(f'head.{name}') for name in ('weight', 'bias')]
        model = BiFormer(arch=arch, out_indices=(3,), final_norm=True)
        model = model.double().eval()
        model.load_state_dict(weights)
        maps = []
        model.stages[3].register_forward_hook(lambda *args: maps.append(args))
        with mode():
            (out,) = model(reference.make_input(arrays['shape'], seed))
        logits = torch.nn.functional.linear(out.mean((2, 3)), *head)
        assert relative_error(logits, arrays['logits']) < 1e-6
        # Kept in float32.
        assert relative_error(maps[0][-1], arrays['stage3']) < 1e-5

    @pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'stl'])
    def test_names_and_shapes_are_the_released(self, arch):
        released = {
            name: tuple(shape)
            for name, shape in reference.released_shapes(arch).items()
            if not name.startswith(('head.', 'norm.'))
        }
        own = {
            name: tuple(value.shape)
            for name, value in BiFormer(arch=arch).state_dict().items()
            if not name.startswith('extra_norms.')
        }
        assert own == released


class TestForward:
    @pytest.mark.parametrize('size', [(1, 1), (33, 7), (64, 96), (225, 130)])
    def test_any_size(self, size):
        model = BiFormer(arch=TOY).eval()
        outs = model(torch.rand(2, 3, *size))
        for i, out in enumerate(outs):
            stride = 4 * 2**i
            sides = [-(-side // stride) for side in size]
            assert out.shape == (2, TOY['dims'][i], *sides)
            assert out.is_contiguous()
            assert out.isfinite().all()

    def test_without_gradients_it_computes_the_same(self, monkeypatch):
        """By its modules: in parts, and in memory that is used again."""
        monkeypatch.setattr(layers, 'is_available', lambda: False)
        monkeypatch.setattr(MLP, 'HIDDEN_BYTES', 2**14)
        torch.manual_seed(0)
        model = BiFormer(arch=TOY).double().eval()
        x = torch.rand(2, 3, 75, 109).double()
        before = x.clone()
        expected = model(x)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                for a, b in zip(model(x), expected, strict=True):
                    torch.testing.assert_close(a, b)
        assert torch.equal(x, before)

    def test_a_batch_without_images(self):
        with torch.no_grad():
            outs = BiFormer(arch=TOY).eval()(torch.rand(0, 3, 64, 64))
        assert [out.shape[0] for out in outs] == [0] * 4

    def test_out_indices(self):
        torch.manual_seed(0)
        model = BiFormer(arch=TOY).eval()
        some = BiFormer(arch=TOY, out_indices=(0, 2)).eval()
        some.load_state_dict(model.state_dict(), strict=False)
        assert len(some.stages) == 3
        x = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            expected, outs = model(x), some(x)
        assert len(outs) == 2
        assert torch.equal(outs[0], expected[0])
        assert torch.equal(outs[1], expected[2])
        assert set(some.extra_norms) == {'0', '2'}

    @pytest.mark.parametrize(
        ('given', 'expected'),
        [(2, (2,)), (-1, (3,)), (range(1, 4), (1, 2, 3)), ([0, -2], (0, 2))],
    )
    def test_forms_of_out_indices(self, given, expected):
        model = BiFormer(arch=TOY, out_indices=given)
        assert model.out_indices == expected
        outs = model(torch.rand(2, 3, 64, 64))
        assert [x.shape[1] for x in outs] == [TOY['dims'][i] for i in expected]

    def test_in_channels(self):
        model = BiFormer(arch=TOY, in_channels=4)
        assert len(model(torch.rand(2, 4, 64, 64))) == 4
        with pytest.raises(ValueError, match=r'\(N, 4, H, W\).*\(2, 3, 64'):
            model(torch.rand(2, 3, 64, 64))

    def test_no_parameter_is_without_a_gradient(self):
        model = BiFormer(arch=TOY, out_indices=(0, 1))
        sum(out.sum() for out in model(torch.rand(2, 3, 64, 64))).backward()
        assert all(p.grad is not None for p in model.parameters())
        assert len(model.stages) == 2

    def test_the_maps_have_their_own_norms(self):
        model = BiFormer(arch=TOY)
        for out in model(torch.rand(1, 3, 64, 64)):
            torch.testing.assert_close(
                out.mean(1), torch.zeros_like(out[:, 0]), atol=1e-5, rtol=0
            )

    @pytest.mark.parametrize('shape', [(3, 32, 32), (1, 1, 32, 32), (3,)])
    def test_refuses_what_is_not_images(self, shape):
        message = f'shape (N, 3, H, W), got {shape}'
        with pytest.raises(ValueError, match=re.escape(message)):
            BiFormer(arch=TOY)(torch.rand(shape))

    def test_refuses_to_train_batch_norms_on_one_value(self):
        model = BiFormer(arch=TOY).train()
        with pytest.raises(ConfigError, match='32 x 20 px.*norm_eval=True'):
            model(torch.rand(1, 3, 32, 20))
        model(torch.rand(1, 3, 33, 20))
        model(torch.rand(2, 3, 32, 20))


class TestClassifier:
    """With the last norm of the authors' classifiers."""

    def build(self, **settings):
        settings = dict(out_indices=(3,), final_norm=True, **settings)
        return BiFormer(arch=TOY, **settings)

    def test_it_has_the_norm_and_no_others(self):
        dense = set(BiFormer(arch=TOY).state_dict())
        dense = {name for name in dense if not name.startswith('extra_norms')}
        own = set(self.build().state_dict())
        names = {'weight', 'bias', 'running_mean', 'running_var'}
        names |= {'num_batches_tracked'}
        assert own - dense == {f'norm.{name}' for name in names}
        assert dense <= own

    def test_every_parameter_is_trained(self):
        model = self.build().train()
        (out,) = model(torch.rand(2, 3, 64, 64))
        assert out.is_contiguous()
        out.square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_it_is_frozen_with_the_last_stage(self):
        model = self.build(frozen_stages=4).train()
        assert not any(p.requires_grad for p in model.parameters())
        assert not model.norm.training
        assert self.build(frozen_stages=3).train().norm.training

    def test_it_needs_the_last_map_alone(self):
        with pytest.raises(ConfigError, match=r'out_indices=\(2, 3\)'):
            BiFormer(arch=TOY, out_indices=(2, 3), final_norm=True)

    def test_refuses_to_train_it_on_one_value(self):
        with pytest.raises(ConfigError, match='map of stride 32'):
            self.build().train()(torch.rand(1, 3, 32, 32))


STL = dict(TOY, mlp_ratio=4, layout='stl')


class TestSTL:
    """The layout of Swin Transformer."""

    @pytest.mark.parametrize('size', [(1, 1), (33, 7), (64, 96), (225, 130)])
    def test_any_size(self, size):
        outs = BiFormer(arch=STL).eval()(torch.rand(2, 3, *size))
        for i, out in enumerate(outs):
            sides = [-(-side // (4 * 2**i)) for side in size]
            assert out.shape == (2, STL['dims'][i], *sides)
            assert out.isfinite().all()

    def test_without_gradients_it_computes_the_same(self):
        torch.manual_seed(0)
        model = BiFormer(arch=STL).double().eval()
        x = torch.rand(2, 3, 75, 109).double()
        before, seen = x.clone(), []
        for stage in model.stages:
            stage.register_forward_hook(lambda *args: seen.append(args[-1]))
        expected = model(x)
        kept = [one.detach().clone() for one in seen]
        seen.clear()
        with torch.no_grad():
            outs = model(x)
        for a, b in zip(outs, expected, strict=True):
            torch.testing.assert_close(a, b)
        # Nor does it write to what others may hold.
        for a, b in zip(seen, kept, strict=True):
            torch.testing.assert_close(a, b)
        assert torch.equal(x, before)

    def test_with_cp_gives_the_same_gradients(self):
        torch.manual_seed(0)
        plain = BiFormer(arch=STL).double()
        saving = BiFormer(arch=STL, with_cp=True).double()
        saving.load_state_dict(plain.state_dict())
        x = torch.rand(2, 3, 64, 64).double()
        for model in (plain, saving):
            sum((out * out).mean() for out in model(x)).backward()
        for (name, a), b in zip(
            plain.named_parameters(), saving.parameters(), strict=True
        ):
            torch.testing.assert_close(a.grad, b.grad, msg=name)

    def test_layer_depths_are_those_of_the_other_layout(self):
        other = BiFormer(arch=TOY)
        model = BiFormer(arch=STL)
        for name in model.state_dict():
            plain = name.replace('.blocks.', '.')
            assert model.get_layer_depth(name) == other.get_layer_depth(plain)
        depth = model.get_layer_depth('stages.2.blocks.1.attn.wo.weight')
        assert depth == (4, 7)

    def test_batch_norms_are_before_the_downsampling(self):
        model = BiFormer(arch=STL, out_indices=(0, 1)).train()
        # The last batch norm is that of the first map.
        model(torch.rand(1, 3, 8, 8))
        with pytest.raises(ConfigError, match='4 x 4 px.*map of stride 4 '):
            model(torch.rand(1, 3, 4, 4))

    def test_the_form_with_other_names_is_refused(self):
        with pytest.raises(ConfigError, match="use arch='stl'.*'stl_nchw'"):
            BiFormer(arch='stl_nchw')

    def test_no_other_layout(self):
        with pytest.raises(ConfigError, match=r"arch\['layout'\].*'swin'"):
            BiFormer(arch=dict(TOY, layout='swin'))


class TestTraining:
    def test_with_cp_gives_the_same_gradients(self):
        torch.manual_seed(0)
        plain = BiFormer(arch=TOY, drop_path_rate=0.2).double()
        saving = BiFormer(arch=TOY, drop_path_rate=0.2, with_cp=True).double()
        saving.load_state_dict(plain.state_dict())
        x = torch.rand(2, 3, 64, 64).double()
        calls = []
        saving.stages[2][0].attn.register_forward_pre_hook(
            lambda *_: calls.append(1)
        )
        for model in (plain, saving):
            torch.manual_seed(1)
            sum((out * out).mean() for out in model(x)).backward()
        assert len(calls) == 2, 'the block was not computed again'
        for (name, a), b in zip(
            plain.named_parameters(), saving.parameters(), strict=True
        ):
            torch.testing.assert_close(a.grad, b.grad, msg=name)

    @pytest.mark.parametrize(
        ('with_cp', 'stages'),
        [(True, [0, 1, 2, 3]), ([1, -1], [1, 3]), (False, []), ([], [])],
    )
    def test_with_cp_of_stages(self, with_cp, stages):
        model = BiFormer(arch=TOY, with_cp=with_cp)
        assert [
            i for i, stage in enumerate(model.stages) if stage[0].with_cp
        ] == stages
        calls = []
        for i, stage in enumerate(model.stages):
            stage[-1].attn.register_forward_hook(
                lambda *_, i=i: calls.append(i)
            )
        sum(out.sum() for out in model(torch.rand(2, 3, 64, 64))).backward()
        assert sorted(calls) == sorted([0, 1, 2, 3] + stages)

    @pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3, 4])
    def test_frozen_stages(self, frozen_stages):
        model = BiFormer(arch=TOY, frozen_stages=frozen_stages).train()
        frozen = ['downsample_layers.0.'] * (frozen_stages >= 0)
        for i in range(max(frozen_stages, 0)):
            frozen += [
                f'{part}.{i}.'
                for part in ('downsample_layers', 'stages', 'extra_norms')
            ]
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad != name.startswith(tuple(frozen))
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                assert module.training != name.startswith(tuple(frozen))

    @pytest.mark.parametrize('norm_eval', [True, False])
    def test_norm_eval(self, norm_eval):
        model = BiFormer(arch=TOY, norm_eval=norm_eval).train()
        before = copy.deepcopy(dict(model.named_buffers()))
        model(torch.rand(2, 3, 64, 64))
        unchanged = all(
            torch.equal(before[name], buffer)
            for name, buffer in model.named_buffers()
        )
        assert unchanged == norm_eval
        assert model.stages.training

    def test_drop_path_rises_linearly(self):
        model = BiFormer(arch=TOY, drop_path_rate=0.4)
        rates = [b.drop_path.drop_prob for s in model.stages for b in s]
        torch.testing.assert_close(rates, [0.0, 0.1, 0.2, 0.3, 0.4])

    @pytest.mark.parametrize('branch', ['attn', 'mlp'])
    def test_drop_path_acts_on_each_branch(self, branch):
        torch.manual_seed(0)
        attn = BiLevelRoutingAttention(32, 1, n_win=2, topk=1)
        block = BiFormerBlock(32, attn, mlp_ratio=3, drop_path_rate=0.999)
        # What the other branch adds is zero.
        other = block.mlp[3] if branch == 'attn' else attn.wo
        torch.nn.init.zeros_(other.weight)
        torch.nn.init.zeros_(other.bias)
        x = torch.rand(2, 32, 8, 8)
        dropped = x + block.pos_embed(x)
        torch.testing.assert_close(block.train()(x), dropped)
        assert not torch.allclose(block.eval()(x), dropped)

    def test_init_weights(self):
        model = BiFormer(arch='tiny')
        model.init_weights()
        block = model.stages[2][0]
        assert block.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not block.mlp[0].bias.any()
        assert (block.norm1.weight == 1).all()

    def test_init_weights_by_a_list(self, tmp_path):
        """Weights are loaded last, and the config stays as it was."""
        path = tmp_path / 'weights.pth'
        saved = BiFormer(arch=TOY)
        torch.save(saved.state_dict(), path)
        constant = dict(type='Constant', layer='LayerNorm', val=3.0)
        weights = dict(type='Pretrained', checkpoint=str(path))
        model = BiFormer(arch=TOY, init_cfg=[weights, constant])
        model.init_weights()
        assert model.is_init
        assert model.init_cfg == [weights, constant]
        for name, value in saved.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name

    @pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
    def test_weights_are_loaded_once(self, kind, tmp_path):
        """By the name or the class, as in pure Python configs."""
        path = tmp_path / 'weights.pth'
        saved = BiFormer(arch=TOY)
        torch.save(saved.state_dict(), path)
        weights = dict(type=kind, checkpoint=str(path))
        parent = Sequential(BiFormer(arch=TOY, init_cfg=weights))
        (model,) = parent
        model.init_weights()
        assert model.is_init
        for name, value in saved.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
        # As in every module of mmengine, weights are not loaded again.
        torch.nn.init.ones_(model.stages[0][0].mlp[0].weight)
        model.init_weights()
        parent.init_weights()
        assert (model.stages[0][0].mlp[0].weight == 1).all()

    def test_pretrained_of_another_number_of_channels(self, tmp_path):
        path = tmp_path / 'weights.pth'
        torch.save(BiFormer(arch=TOY).state_dict(), path)
        model = BiFormer(
            arch=TOY,
            in_channels=4,
            init_cfg=dict(type=PretrainedInit, checkpoint=str(path)),
        )
        with pytest.raises(CheckpointError, match='downsample_layers.0.0.we'):
            model.init_weights()


class TestOptions:
    def test_mlp_ratio_of_each_stage(self):
        model = BiFormer(dict(TOY, mlp_ratio=(4, 3, 2.5, 1)))
        ratios = [
            stage[0].mlp[0].out_features / dim
            for stage, dim in zip(model.stages, TOY['dims'], strict=True)
        ]
        assert ratios == [4, 3, 2.5, 1]

    def test_attn_cfg_for_all_routed_stages(self):
        cfg = dict(soft_routing=True, diff_routing=True, qk_scale=0.2)
        model = BiFormer(TOY, topks=(2, 0, 4, -2), attn_cfg=cfg).eval()
        for i in (0, 2):
            attn = model.stages[i][0].attn
            assert (attn.scale, attn.router.scale) == (0.2, 0.2)
            assert attn.soft_routing
            assert attn.router.diff_routing
        plain = BiFormer(TOY, topks=(2, 0, 4, -2)).eval()
        plain.load_state_dict(model.state_dict())
        x = torch.rand(1, 3, 64, 64)
        for a, b in zip(model(x), plain(x), strict=True):
            assert not torch.allclose(a, b)

    def test_attn_cfg_of_each_stage(self):
        model = BiFormer(
            TOY,
            n_win=2,
            topks=(1, 2, 3, -1),
            attn_cfg=[
                dict(kv_downsample_mode='avgpool', kv_downsample_ratio=4),
                dict(kv_downsample_mode='ada_maxpool', kv_per_win=2),
                {},
                None,
            ],
        )
        kinds = [
            type(stage[0].attn.kv_down).__name__ for stage in model.stages[:3]
        ]
        assert kinds == ['AvgPool2d', 'AdaptiveMaxPool2d', 'NoneType']
        sum(out.sum() for out in model(torch.rand(2, 3, 64, 64))).backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_names_of_the_authors_are_translated(self):
        with pytest.raises(ConfigError) as caught:
            MODELS.build(
                dict(
                    type='BiFormer',
                    depth=[2, 2, 8, 2],
                    embed_dim=[64, 128, 256, 512],
                    soft_routing=True,
                    pre_norm=False,
                )
            )
        message = str(caught.value)
        for part in (
            'depth: arch=dict(depths=…)',
            'embed_dim: arch=dict(dims=…)',
            'soft_routing: attn_cfg=dict(soft_routing=…)',
            'pre_norm: not supported',
        ):
            assert part in message
        with pytest.raises(TypeError, match="'depht'"):
            BiFormer(depht=3)

    def test_every_translation_is_an_argument(self):
        """None of ours is refused, and what is named exists."""
        ours = {*inspect.signature(BiFormer.__init__).parameters}
        assert not ours & set(authors_options.OURS)
        for text in authors_options.OURS.values():
            for name in re.findall(r'^(\w+)=', text):
                assert name in ours
            for key in re.findall(r'attn_cfg=\[?dict\((\w+)=', text):
                assert key in ATTN_CFG_KEYS
            for key in re.findall(r'arch=dict\((\w+)=', text):
                assert key in Arch._fields

    def test_layer_depth(self):
        """The contract of mmpretrain's backbones."""
        model = BiFormer(TOY)
        depths = {
            'downsample_layers.0.0.weight': 0,
            'stages.0.0.mlp.0.weight': 1,
            'downsample_layers.1.0.weight': 2,
            'stages.1.0.norm1.bias': 2,
            'stages.2.0.attn.wo.weight': 3,
            'stages.2.1.attn.wo.weight': 4,
            'downsample_layers.3.1.bias': 5,
            'stages.3.0.attn.proj.weight': 5,
            'extra_norms.0.weight': 6,
        }
        for name, depth in depths.items():
            assert model.get_layer_depth(name) == (depth, 7)
            prefixed = f'backbone.{name}'
            assert model.get_layer_depth(prefixed, 'backbone.') == (depth, 7)
        assert model.get_layer_depth('head.fc.weight', 'backbone.') == (6, 7)
        for name, _ in model.named_parameters():
            assert 0 <= model.get_layer_depth(name)[0] < 7


class TestTorch:
    """What torch does with modules besides calling them."""

    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        return BiFormer(arch=TOY, n_win=4).eval()

    def test_compiles_without_graph_breaks(self, model):
        x = torch.rand(1, 3, 64, 96)
        compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
        with torch.no_grad():
            for a, b in zip(compiled(x), model(x), strict=True):
                torch.testing.assert_close(a, b)
        compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
        x.requires_grad_()
        sum(out.square().mean() for out in compiled(x)).backward()
        grad, x.grad = x.grad, None
        sum(out.square().mean() for out in model(x)).backward()
        torch.testing.assert_close(grad, x.grad)

    def test_exports(self, model):
        x = torch.rand(1, 3, 64, 96)
        exported = torch.export.export(model, (x,)).module()
        for a, b in zip(exported(x), model(x), strict=True):
            torch.testing.assert_close(a, b)

    def test_runs_on_the_meta_device(self, model):
        outs = model.to('meta')(torch.rand(2, 3, 100, 132, device='meta'))
        assert [tuple(out.shape[2:]) for out in outs] == [
            (25, 33),
            (13, 17),
            (7, 9),
            (4, 5),
        ]

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.half])
    def test_autocast_trains(self, model, dtype):
        x = torch.rand(2, 3, 64, 96)
        plain = model(x)
        with torch.autocast('cpu', dtype):
            outs = model(x)
            loss = sum(out.square().mean() for out in outs)
        loss.backward()
        for a, b in zip(outs, plain, strict=True):
            error = (a - b).abs().max() / b.abs().max()
            assert error < 0.1
        assert all(p.grad.isfinite().all() for p in model.parameters())

    def test_hooks_see_every_module_and_whole_maps(self, model):
        """In evaluation too, where the MLP computes parts."""
        called = {}
        for name, module in model.named_modules():
            module.register_forward_hook(
                lambda module, args, out, name=name: called.setdefault(
                    name, []
                ).append(out)
            )
        with torch.no_grad():
            model(torch.rand(1, 3, 320, 320))
        containers = {'downsample_layers', 'stages', 'extra_norms'}
        assert {*called} == {
            name for name, _ in model.named_modules()
        } - containers
        for name, outs in called.items():
            # Stochastic depth of both branches is one module.
            assert len(outs) == 1 + name.endswith('drop_path'), name
        assert called['stages.0.0.mlp.0'][0].shape == (1, 80, 80, 96)

    def test_keeps_less_than_half_of_the_reference(self):
        """Bytes for the backward pass, each memory once."""
        kept = {}
        for backend in ('reference', 'sdpa', 'auto'):
            model = BiFormer('small', n_win=8, attn_backend=backend)
            parameters = {p.data_ptr() for p in model.parameters()}
            memory = {}

            def pack(x, memory=memory):
                storage = x.untyped_storage()
                memory[storage.data_ptr()] = storage.nbytes()
                return x

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                outs = model(torch.rand(1, 3, 320, 320))
            kept[backend] = sum(
                size for key, size in memory.items() if key not in parameters
            )
            del outs
        assert kept['auto'] < kept['reference'] / 2
        assert kept['sdpa'] < kept['reference'] / 2


class TestArguments:
    def test_is_built_from_the_root_registry(self):
        model = MODELS.build(dict(type='BiFormer', arch='tiny', n_win=8))
        assert isinstance(model, BiFormer)
        assert model.stages[0][0].attn.n_win == 8

    def test_head_dim_and_mlp_ratio(self):
        model = BiFormer(dict(TOY, head_dim=16, mlp_ratio=1.5), n_win=4)
        for stage, dim in zip(model.stages, TOY['dims'], strict=True):
            mlp = stage[0].mlp
            assert mlp[0].out_features == mlp[3].in_features == 1.5 * dim
        for stage, heads in zip(model.stages, (2, 2, 4), strict=False):
            assert stage[0].attn.num_heads == heads

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (dict(arch='huge'), "'tiny', 'small', 'base'.*arch='huge'"),
            (dict(arch=3), "'tiny', 'small', 'base'.*dict, got arch=3"),
            (dict(arch=dict(depths=(1, 1, 1, 1))), r"missing \['dims'\]"),
            (dict(arch=dict(TOY, widths=1)), r"unknown \['widths'\]"),
            (
                dict(arch=dict(TOY, dims=(32, 64))),
                r"arch\['dims'\].*\(32, 64\)",
            ),
            (
                dict(arch=dict(TOY, depths=(1, 1, 0, 1))),
                r"arch\['depths'\]\[2\] must be .* at least 1, got .*=0",
            ),
            (
                dict(arch=dict(TOY, dims=(1, 32, 64, 64), head_dim=1)),
                r"arch\['dims'\]\[0\] must be at least 2.*\(1, 32, 64, 64\)",
            ),
            (
                dict(arch=dict(TOY, dims=(32, 48, 64, 64))),
                'stage 1 .*head_dim=32, dim=48',
            ),
            (dict(arch=dict(TOY, dims=(32, 32, 64, 60))), r'dims\[3\]=60'),
            (dict(topks=(1, 4, 50, -2)), r'topks\[2\]=50.*n_win\*\*2=49'),
            (dict(topks=(1, 4, -3, -2)), r'topk=-3'),
            (dict(topks=(1, 4)), r'topks=\(1, 4\)'),
            (dict(n_win=0), 'n_win=0'),
            (dict(n_win='7'), "n_win='7'"),
            (dict(n_win=True), 'n_win=True'),
            (dict(topks=4), 'topks=4'),
            (dict(topks=(1.0, 4, 16, -2)), r'topks\[0\]=1.0.*whole number'),
            (dict(out_indices='2'), "out_indices='2'"),
            (dict(out_indices=-5), 'from -4 to -1.*out_indices=-5'),
            (dict(out_indices=(0, -4)), r'out_indices=\(0, -4\)'),
            (dict(out_indices=True), 'out_indices=True'),
            (dict(arch=dict(TOY, head_dim=0)), 'head_dim=0'),
            (
                dict(arch=dict(TOY, mlp_ratio='3')),
                "mlp_ratio must.*mlp_ratio='3'",
            ),
            (dict(arch=dict(TOY, mlp_ratio=0.03)), 'mlp_ratio=0.03, dim=32'),
            (dict(drop_path_rate=None), 'drop_path_rate=None'),
            (dict(init_cfg='x.pth'), "init_cfg='x.pth'"),
            (dict(init_cfg=dict(type='Pretrained')), 'checkpoint=PATH'),
            (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\)'),
            (dict(out_indices=(2, 1)), r'out_indices=\(2, 1\)'),
            (dict(out_indices=()), r'out_indices=\(\)'),
            (dict(drop_path_rate=1.0), 'drop_path_rate=1.0'),
            (dict(drop_path_rate=-0.1), 'drop_path_rate=-0.1'),
            (dict(frozen_stages=5), 'from -1 to 4, got frozen_stages=5'),
            (dict(frozen_stages=-2), 'from -1 to 4, got frozen_stages=-2'),
            (dict(norm_eval=1), 'True or False, got norm_eval=1'),
            (dict(with_cp='yes'), "True or False, got with_cp='yes'"),
            (dict(with_cp=[4]), r'0 to 3.*with_cp=\[4\]'),
            (dict(with_cp=1), 'got with_cp=1'),
            (dict(in_channels=0), 'in_channels=0'),
            (
                dict(arch=dict(TOY, mlp_ratio=(3, 3))),
                r"arch\['mlp_ratio'\] must .* 4 values",
            ),
            (
                dict(arch=dict(TOY, mlp_ratio=(3, 3, 0, 3))),
                'stage 2 .*mlp_ratio=0, dim=64',
            ),
            (dict(attn_cfg=dict(scale=1)), "'qk_scale'.*'scale': 1"),
            (dict(attn_cfg=[{}]), r'attn_cfg must .* 4 values'),
            (dict(attn_cfg=[{}, {}, 3, {}]), 'must be a dict, or a list'),
            (
                dict(attn_cfg=[{}, {}, {}, dict(qk_scale=1)]),
                'read only by routed stages',
            ),
            (
                dict(topks=(0, -1, -2, -2), attn_cfg=dict(qk_scale=1)),
                r'routed stages.*topks=\(0, -1, -2, -2\)',
            ),
            (
                dict(attn_cfg=dict(kv_downsample_mode='avgpool')),
                'stage 0 .*kv_downsample_ratio=None',
            ),
            (dict(attn_backend='fast'), "'auto'.*got attn_backend='fast'"),
        ],
    )
    def test_refuses(self, arguments, message):
        arguments = {'arch': TOY, **arguments}
        with pytest.raises(ConfigError, match=message):
            BiFormer(**arguments)
