"""Compiled layers: against torch's."""

import pytest
import torch
import torch.nn.functional as F

from mmbiformer.ops import layers

pytestmark = pytest.mark.skipif(
    not layers.is_available(), reason='not compiled for this CPU'
)
SIZES = [(2, 7, 9), (1, 1, 1), (1, 2, 30), (3, 20, 5)]
CHANNELS = [16, 48, 64]


def rand(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def make_norm(channels):
    return layers.Norm(rand(channels), rand(channels), 1e-6)


def normalize(x, norm):
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def check(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('channels', CHANNELS)
def test_norm_linear_pads_after_the_norm(size, channels):
    x, norm = rand(*size, channels), make_norm(channels)
    linear = layers.Linear(rand(3 * channels, channels), rand(3 * channels))
    out = rand(3, size[0], size[1] + 2, size[2] + 3, channels)
    layers.norm_linear(x, linear, norm, out)
    padded = F.pad(normalize(x, norm), (0, 0, 0, 3, 0, 2))
    expected = F.linear(padded, linear.weight, linear.bias).chunk(3, -1)
    check(out, torch.stack(expected))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('channels', CHANNELS)
def test_add_linear_crops(size, channels):
    x, out = rand(size[0], size[1] + 2, size[2] + 3, channels), rand(*size, 32)
    linear = layers.Linear(rand(32, channels))
    cropped = x[:, : size[1], : size[2]]
    expected = out + F.linear(cropped, linear.weight)
    layers.add_linear(out, x, linear)
    check(out, expected)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('channels', CHANNELS)
def test_add_mlp(size, channels):
    x, norm = rand(*size, channels), make_norm(channels)
    first = layers.Linear(rand(80, channels), rand(80))
    second = layers.Linear(rand(channels, 80), rand(channels))
    hidden = F.gelu(F.linear(normalize(x, norm), *first))
    expected = x + F.linear(hidden, *second)
    layers.add_mlp(x, norm, first, second)
    check(x, expected)


@pytest.mark.parametrize('size', [*SIZES, (1, 6, 41)])
@pytest.mark.parametrize('channels', CHANNELS)
@pytest.mark.parametrize('kernel', [3, 5])
def test_depthwise(size, channels, kernel):
    x, out = rand(*size, channels), rand(*size, channels)
    weight, bias = rand(channels, 1, kernel, kernel), rand(channels)
    convolved = F.conv2d(
        x.permute(0, 3, 1, 2), weight, bias, padding=kernel // 2,
        groups=channels,
    )  # fmt: skip
    expected = out + convolved.permute(0, 2, 3, 1)
    layers.depthwise(x, weight, bias, out, out)
    check(out, expected)


def test_gelu_is_exact_in_single_precision():
    """Its argument is the bias of a layer whose input is zero."""
    identity = torch.eye(16)
    norm = layers.Norm(torch.zeros(16), torch.zeros(16), 1.0)
    for value in (-9.0, -3.3, -1e-3, 0.0, 0.7, 5.0, 80.0):
        bias = torch.full((16,), value)
        out = torch.zeros(1, 1, 1, 16)
        layers.add_mlp(
            out, norm, layers.Linear(identity, bias), layers.Linear(identity)
        )
        expected = F.gelu(bias.double())
        error = (out.double() - expected).abs().max()
        assert error <= 2e-7 * max(1, abs(value)), value


def test_too_large_a_request_for_memory_is_an_error():
    """Before anything is read: the pointers are null."""
    arguments = layers._DepthwiseArguments(
        images=1, height=1, width=1, channels=2**46, kernel=3, threads=1
    )
    with pytest.raises(
        MemoryError, match=r'depthwise could not allocate \d{15} bytes'
    ):
        layers._call('depthwise', rand(1), arguments)
