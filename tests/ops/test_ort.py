"""The operators for onnxruntime: against torch's layers and the reference."""

import pytest
import torch
import torch.nn.functional as F

from mmbiformer.ops import routed_attention
from mmbiformer.ops.backends import ort

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
N, H, W, C = 2, 12, 16, 64


def run(op_type, inputs, outputs=1, **attributes):
    """Run a graph of one node."""
    types = onnx.TensorProto
    names = [f'in{i}' for i in range(len(inputs))]
    results = [f'out{i}' for i in range(outputs)]
    node = onnx.helper.make_node(
        op_type, names, results, domain='mmbiformer', **attributes
    )
    graph = onnx.helper.make_graph(
        [node],
        'graph',
        [
            onnx.helper.make_tensor_value_info(
                name,
                types.INT64 if x.dtype == torch.int64 else types.FLOAT,
                list(x.shape),
            )
            for name, x in zip(names, inputs, strict=True)
        ],
        [
            onnx.helper.make_tensor_value_info(name, types.FLOAT, None)
            for name in results
        ],
    )
    opsets = [('', 20), ('mmbiformer', 1)]
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid(*opset) for opset in opsets],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    options.register_custom_ops_library(str(ort.library_path()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    outs = [torch.from_numpy(out) for out in session.run(None, feeds)]
    return outs[0] if outputs == 1 else outs


def check(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def maps():
    return torch.randn(3, N, H, W, C).unbind()


def test_it_was_compiled():
    assert ort.library_path() is not None


@pytest.mark.parametrize(('n_win', 'topk'), [(1, 1), (2, 3), (4, 5)])
def test_routed_attention(n_win, topk, maps):
    routing = torch.rand(N, n_win**2, n_win**2).topk(topk, -1).indices
    out = run('RoutedAttention', [*maps, routing], num_heads=2, scale=0.3)
    check(out, routed_attention(*maps, routing, 2, 0.3, 'reference'))


@pytest.mark.parametrize('kernel', [3, 5])
def test_depthwise(kernel, maps):
    x, added, _ = maps
    weight, bias = torch.randn(C, 1, kernel, kernel), torch.randn(C)
    taps = weight.view(C, -1).t().contiguous()
    convolved = F.conv2d(
        x.permute(0, 3, 1, 2), weight, bias, padding=kernel // 2, groups=C
    )
    out = run('Depthwise', [x, taps, bias, added])
    check(out, added + convolved.permute(0, 2, 3, 1))


def test_norm_qkv_pads_to_whole_regions():
    x, norm = torch.randn(N, 11, 15, C), torch.randn(2, C)
    weight, bias = torch.randn(3 * C, C) / 8, torch.randn(3 * C)
    outs = run('NormQkv', [x, *norm, weight, bias], 3, n_win=4, epsilon=1e-6)
    padded = F.pad(F.layer_norm(x, (C,), *norm, 1e-6), (0, 0, 0, 1, 0, 1))
    expected = F.linear(padded, weight, bias).chunk(3, -1)
    for out, one in zip(outs, expected, strict=True):
        check(out, one)


def test_add_linear_crops(maps):
    x, added = maps[0], torch.randn(N, 11, 15, C)
    weight, bias = torch.randn(C, C) / 8, torch.randn(C)
    out = run('AddLinear', [x, added, weight, bias])
    check(out, added + F.linear(x[:, :11, :15], weight, bias))


def test_mlp(maps):
    x, norm = maps[0], torch.randn(2, C)
    first = torch.randn(48, C) / 8, torch.randn(48)
    second = torch.randn(C, 48) / 7, torch.randn(C)
    out = run('Mlp', [x, *norm, *first, *second], epsilon=1e-6)
    hidden = F.gelu(F.linear(F.layer_norm(x, (C,), *norm, 1e-6), *first))
    check(out, x + F.linear(hidden, *second))


def test_wrong_inputs_are_errors(maps):
    routing = torch.full((N, 4, 1), 4)
    settings = dict(num_heads=2, scale=0.3)
    with pytest.raises(Exception, match='a region that does not exist'):
        run('RoutedAttention', [*maps, routing], **settings)
    with pytest.raises(Exception, match='shapes of the inputs do not fit'):
        run('RoutedAttention', [*maps, routing[:, :3]], **settings)
    with pytest.raises(Exception, match='num_heads'):
        run('RoutedAttention', [*maps, routing], scale=0.3)
    wide = torch.randn(C, C + 16), torch.randn(C)
    with pytest.raises(Exception, match='shapes of the inputs do not fit'):
        run('AddLinear', [maps[0], maps[1], *wide])
