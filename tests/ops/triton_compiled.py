"""The Triton backend's launches, and its machine code, without a GPU.

The kernels must not be interpreted, so test_triton.py runs this file in a
process of its own.
"""

import re
import subprocess
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmbiformer.ops.backends import triton as backend
from mmbiformer.ops.backends import triton_kernels as kernels

CUOBJDUMP = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
KERNELS = ('forward', 'grad_q', 'invert', 'grad_kv', 'join_pieces')
TYPES = {torch.half: 'fp16', torch.bfloat16: 'bf16', torch.float32: 'fp32'}
TYPES.update({torch.int32: 'i32', torch.int64: 'i64'})
CAPABILITIES = (80, 86, 89, 90)
# A program's limit on sm_86 and sm_89; sm_80 and sm_90 have more.
SHARED_BYTES = 99 * 1024
# Regions of stages 1 and 2 at 800x1333 with 16 regions per side.
LARGE, SMALL = (13, 21), (7, 11)


class Recorder:
    """Stands for a kernel, and keeps what it is launched with."""

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            self.grid, self.args, self.kwargs = grid, args, kwargs

        return launch


@pytest.fixture
def record(monkeypatch):
    """Launch the kernels on maps without data; return the launches."""

    def run(dtype, region, n=1, n_win=16, topk=4, heads=2, head_dim=32):
        launches = {name: Recorder() for name in KERNELS}
        with monkeypatch.context() as patch:
            for name, launch in launches.items():
                patch.setattr(kernels, name, launch)
            size = n, n_win * region[0], n_win * region[1], heads * head_dim
            q = torch.empty(size, dtype=dtype, device='meta')
            routing = torch.empty(
                n, n_win**2, topk, dtype=torch.long, device='meta'
            )
            inputs = q, q, q, routing, heads, 0.1
            backend._backward(*inputs, *backend._forward(*inputs), q)
        return launches

    return run


def compile_kernel(name, launch, capability):
    """Compile a kernel as its launch would, for aligned tensors."""
    kernel = getattr(kernels, name)
    values = dict(zip(kernel.arg_names, launch.args, strict=False))
    constants = {
        key: value
        for key, value in launch.kwargs.items()
        if key in kernel.arg_names
    }
    options = {
        key: value
        for key, value in launch.kwargs.items()
        if key not in constants
    }
    assert [*values, *constants] == kernel.arg_names
    signature, attributes = dict.fromkeys(constants, 'constexpr'), {}
    for index, (key, value) in enumerate(values.items()):
        if isinstance(value, torch.Tensor):
            signature[key] = f'*{TYPES[value.dtype]}'
        else:
            signature[key] = 'i32' if isinstance(value, int) else 'fp32'
        if isinstance(value, torch.Tensor) or (
            isinstance(value, int)
            and key not in kernel.do_not_specialize
            and value % 16 == 0
        ):
            attributes[index,] = [['tt.divisibility', 16]]
    source = ASTSource(
        kernel,
        {key: signature[key] for key in kernel.arg_names},
        {(kernel.arg_names.index(k),): v for k, v in constants.items()},
        attributes,
    )
    target = GPUTarget('cuda', capability, 32)
    return triton.compile(source, target=target, options=options)


def spilled_bytes(compiled, folder):
    """Return the bytes of a thread's stack, to which registers spill."""
    path = folder / 'kernel.cubin'
    path.write_bytes(compiled.asm['cubin'])
    usage = subprocess.run(
        [CUOBJDUMP, '-res-usage', path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return int(re.search(r'STACK:(\d+)', usage)[1])


def check_code(name, launch, capability, folder):
    compiled = compile_kernel(name, launch, capability)
    code = compiled.asm['ptx']
    if name in ('forward', 'grad_q', 'grad_kv'):
        # Tensor cores, and copies to shared memory in the background.
        assert re.search(r'mma\.sync|wgmma\.mma_async', code)
        assert 'cp.async' in code
        assert re.search(r'ld\.global\S*\.v4', code)
    assert compiled.metadata.shared < SHARED_BYTES
    # None with triton 3.7.1, four registers of one kernel with 3.8.0.
    assert spilled_bytes(compiled, folder) <= 16


@pytest.fixture(autouse=True)
def compile_anew(tmp_path, monkeypatch):
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path / 'cache'))


@pytest.mark.parametrize(
    ('name', 'capability', 'region'),
    [
        ('forward', 80, SMALL),
        ('grad_q', 86, SMALL),
        ('grad_kv', 89, SMALL),
        ('forward', 90, LARGE),
    ],
)
def test_the_machine_code(name, capability, region, record, tmp_path):
    launch = record(torch.half, region)[name]
    check_code(name, launch, capability, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('capability', CAPABILITIES)
@pytest.mark.parametrize('name', KERNELS)
@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.float32])
def test_the_machine_code_for_all(name, dtype, capability, record, tmp_path):
    launches = [record(dtype, region)[name] for region in (SMALL, LARGE)]
    # Large regions may have a tile of their own.
    for launch in {str(x.kwargs): x for x in launches}.values():
        check_code(name, launch, capability, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('head_dim', [16, 48, 64])
@pytest.mark.parametrize('name', ['forward', 'grad_q', 'grad_kv'])
def test_the_machine_code_for_other_heads(name, head_dim, record, tmp_path):
    launch = record(torch.half, SMALL, head_dim=head_dim)[name]
    check_code(name, launch, 80, tmp_path)


@pytest.mark.parametrize(('region', 'topk'), [(LARGE, 1), ((4, 6), 16)])
def test_grids_of_large_batches(record, region, topk):
    """One dimension, as the others end at 65,535 programs."""
    launches = record(torch.half, region, n=64, topk=topk, heads=8)
    tokens = region[0] * region[1]
    for name, parts, tile in (
        ('forward', 256, 'BLOCK_M'),
        ('grad_q', 256, 'BLOCK_M'),
        # A quarter more pieces than regions, and as many joints.
        ('grad_kv', 256 + 64, 'BLOCK_N'),
        ('join_pieces', 64, 'BLOCK_N'),
    ):
        launch = launches[name]
        tiles = -(-tokens // launch.kwargs[tile])
        assert launch.grid == (64 * parts * 8 * tiles,)
        assert launch.grid[0] < 2**31
    assert launches['invert'].grid == (64 * 256,)
    assert launches['grad_kv'].grid[0] > 65_535


def test_no_size_of_the_map_is_compiled_in(record):
    """Multi-scale training would compile in every iteration."""
    launches = [record(torch.half, region) for region in (SMALL, (8, 15))]
    for name in KERNELS:
        kernel = getattr(kernels, name)
        first, second = (
            [
                isinstance(value, int) and value % 16 == 0
                for key, value in zip(
                    kernel.arg_names, launch[name].args, strict=False
                )
                if key not in kernel.do_not_specialize
            ]
            for launch in launches
        )
        assert first == second
        assert launches[0][name].kwargs == launches[1][name].kwargs
