"""Measure time and memory of models, each in its own process.

The processes take turns (A B A B …), so that other load on the machine affects
all of them. A fresh process also gives a reliable peak of memory, and running
out of memory ends only that process.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import resource
import time
import warnings
from math import ceil
from multiprocessing.connection import Connection
from statistics import median
from typing import (
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mmbiformer.deployment.runtime import Session
from mmbiformer.models import BiFormer
from mmbiformer.ops import ATTENTION_BACKENDS
from mmbiformer.utils.arguments import is_exported
from mmbiformer.utils.config import build_model, read_config
from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.synthetic import random_batch

BACKBONES = {
    **{
        f'biformer-{arch}': dict(type='BiFormer', arch=arch)
        for arch in BiFormer.arch_zoo
    },
    # Settings of mmdet's configs, but batch norm statistics are updated.
    'swin-tiny': dict(
        type='SwinTransformer', drop_path_rate=0.0, _scope_='mmdet'
    ),
    'swin-small': dict(
        type='mmdet.SwinTransformer', depths=(2, 2, 18, 2), drop_path_rate=0.0
    ),
    'resnet-50': dict(
        type='ResNet', depth=50, norm_eval=False, _scope_='mmdet'
    ),
    'resnet-101': dict(
        type='ResNet', depth=101, norm_eval=False, _scope_='mmdet'
    ),
}
"""dict[str, dict]: Configs of the available backbones, by name."""

ROUND_SECONDS = 0.5
"""float: Minimum duration of a round; fast models run several times."""
WARM_UP_SIDE = 64
"""int: Side of the image of the warm-up run."""


class Candidate(NamedTuple):
    """A model to measure.

    Attributes:
        name (str): ``NAME`` or, for BiFormer, ``NAME:BACKEND``, where NAME is
            in :data:`BACKBONES`; or a config, see
            :func:`mmbiformer.utils.config.read_config`; or a file of
            ``tools/deployment/export.py``, which onnxruntime runs.
        is_config (bool): Whether it is a config. Default: False.
        cfg_options (dict, optional): Values that replace the config's.
            Default: None.
    """

    name: str
    is_config: bool = False
    cfg_options: Optional[dict] = None

    @property
    def has_n_win(self) -> bool:
        """bool: Whether ``n_win`` of the setting applies to it."""
        return not self.is_config and self.name.startswith('biformer-')

    def check(self) -> None:
        """Check that the model can be built.

        Raises:
            MissingFileError: If a config does not exist.
            ConfigError: If a backbone or attention backend is unknown, or a
                config is for none of the tasks.
        """
        if is_exported(self.name):
            Session(self.name)
            return
        if self.is_config:
            read_config(self.name, self.cfg_options)
            return
        name, colon, backend = self.name.partition(':')
        if name not in BACKBONES:
            raise ConfigError(
                f'a backbone must be one of {tuple(BACKBONES)}, got '
                f'{self.name!r}'
            )
        if colon and not self.has_n_win:
            raise ConfigError(
                f'only BiFormer takes an attention backend, got {self.name!r}'
            )
        if colon and backend not in ATTENTION_BACKENDS:
            raise ConfigError(
                f'an attention backend must be one of {ATTENTION_BACKENDS}, '
                f'got {self.name!r}'
            )


class Setting(NamedTuple):
    """The conditions of a measurement.

    Attributes:
        shape (tuple[int, int]): Height and width of the images, in pixels.
        n_win (int): Regions per side, for BiFormers without a config.
        batch_size (int): Number of images. Default: 1.
        train (bool): Whether to measure forward and backward pass instead of
            inference. Default: False.
        amp (bool): Whether to use mixed precision: float16 on GPUs, bfloat16
            on CPUs. Default: False.
        device (str): ``'cpu'`` or ``'cuda'``. Default: ``'cpu'``.
        threads (int): Number of CPU threads. Default: 1.
    """

    shape: Tuple[int, int]
    n_win: int
    batch_size: int = 1
    train: bool = False
    amp: bool = False
    device: str = 'cpu'
    threads: int = 1


class Result(NamedTuple):
    """Time and memory of a candidate under a setting.

    Attributes:
        candidate (str): Its name.
        shape (tuple[int, int]): Height and width of the images, in pixels.
        n_win (int, optional): Regions per side, if they apply.
        batch_size (int): Number of images.
        seconds (list[float]): Seconds of a run, in each round.
        ratio (float, optional): Time relative to the first candidate, as the
            median over the rounds.
        peak_bytes (int, optional): Peak of memory above that of the loaded
            model; in training, including the gradients.
        kept_bytes (int, optional): Bytes kept between forward and backward,
            weights excluded; in training only.
        error (str, optional): Why the measurement failed.
    """

    candidate: str
    shape: Tuple[int, int]
    n_win: Optional[int]
    batch_size: int
    seconds: List[float]
    ratio: Optional[float] = None
    peak_bytes: Optional[int] = None
    kept_bytes: Optional[int] = None
    error: Optional[str] = None

    @property
    def images_per_second(self) -> float:
        """float: Images per second, as the median over the rounds."""
        return self.batch_size / median(self.seconds)


class Bytes(NamedTuple):
    """Memory of one run, as in :class:`Result`."""

    peak: int
    kept: Optional[int]


def paper_n_win(shape: Tuple[int, int]) -> int:
    """Return the regions per side that the paper uses for such images.

    Args:
        shape (tuple[int, int]): Height and width of the images, in pixels.

    Returns:
        int: 7 up to 224 pixels (ImageNet), 8 up to 512 (ADE20K), else 16
        (COCO).
    """
    side = max(shape)
    return 7 if side <= 224 else 8 if side <= 512 else 16


class PeakMemory:
    """Measure the peak of memory within a block, relative to its start.

    On a GPU, the memory of torch's tensors is measured; on a CPU, the resident
    memory of the process.

    Args:
        device (str): ``'cpu'`` or ``'cuda'``.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.peak = 0

    def __enter__(self) -> 'PeakMemory':
        """Start from the current memory usage."""
        gc.collect()
        if self.device == 'cuda':
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            # Return freed memory to the system, so that its reuse is counted.
            with contextlib.suppress(AttributeError, OSError):
                ctypes.CDLL(None).malloc_trim(0)
            # Reset the peak resident memory to the current one (proc(5)).
            with (
                contextlib.suppress(OSError),
                open('/proc/self/clear_refs', 'w') as file,
            ):
                file.write('5')
        self._start = self._highest()
        return self

    def __exit__(self, *_: object) -> None:
        """Set :attr:`peak`."""
        self.peak = self._highest() - self._start

    def _highest(self) -> int:
        """Return the peak memory usage so far, in bytes."""
        if self.device == 'cuda':
            return torch.cuda.max_memory_allocated()
        with contextlib.suppress(OSError), open('/proc/self/status') as file:
            for line in file:
                if line.startswith('VmHWM:'):
                    return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def count_kept_bytes(model: nn.Module) -> Iterator[Dict[int, int]]:
    """Count the bytes that autograd keeps for the backward pass.

    Args:
        model (nn.Module): Model whose parameters and buffers are excluded.

    Yields:
        dict[int, int]: Size of each kept storage in bytes, by its address; it
        is complete after the block.
    """
    own = {
        tensor.untyped_storage().data_ptr()
        for tensor in [*model.parameters(), *model.buffers()]
    }
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


class Job:
    """A candidate that is built and ready to run.

    Args:
        candidate (Candidate): The model to build.
        setting (Setting): The conditions to run it under.
    """

    def __init__(self, candidate: Candidate, setting: Setting) -> None:
        torch.manual_seed(0)
        self.setting = setting
        self._scope = None
        self._session = None
        if is_exported(candidate.name):
            if setting.train or setting.amp or setting.device != 'cpu':
                raise ConfigError(
                    f'{candidate.name!r} is an exported file, which is '
                    'measured on the CPU only, without --train and --amp'
                )
            self._session = Session(candidate.name, threads=setting.threads)
            # Nothing that has gradients or parameters.
            model = nn.Identity()
        elif candidate.is_config:
            cfg = read_config(candidate.name, candidate.cfg_options)
            self._scope = cfg.default_scope
            model = build_model(cfg)
        else:
            name, _, backend = candidate.name.partition(':')
            cfg = dict(BACKBONES[name])
            if candidate.has_n_win:
                cfg['n_win'] = setting.n_win
            if backend:
                cfg['attn_backend'] = backend
            model = MODELS.build(cfg)
        # Not chained, as train() of mmdet's backbones returns None.
        self.model = model.to(setting.device)
        self.model.train(setting.train)

    def prepare(self, shape: Tuple[int, int]) -> Callable[[], object]:
        """Create a batch and return a function for its forward pass.

        Args:
            shape (tuple[int, int]): Height and width of the images.

        Returns:
            Callable: The forward pass; in training, it returns the loss.
        """
        setting, model = self.setting, self.model
        if self._session is not None:
            pixels = 255 * torch.rand(setting.batch_size, 3, *shape).numpy()
            return lambda: self._session(pixels)
        if self._scope is None:
            images = torch.rand(
                setting.batch_size, 3, *shape, device=setting.device
            )
            if not setting.train:
                return lambda: model(images)
            return lambda: sum(out.float().mean() for out in model(images))
        images, samples = random_batch(
            model, self._scope, shape, setting.batch_size, setting.train
        )
        if not setting.train:
            return lambda: model(images, samples, mode='tensor')
        return lambda: model.parse_losses(model(images, samples, mode='loss'))[
            0
        ]

    def run(self, forward: Callable[[], object]) -> None:
        """Run once, including the backward pass in training."""
        setting = self.setting
        if setting.train:
            self.model.zero_grad(set_to_none=True)
        with torch.autocast(setting.device, enabled=setting.amp):
            if setting.train:
                loss = forward()
            else:
                with torch.no_grad():
                    forward()
        if setting.train:
            loss.backward()

    def measure_bytes(self, forward: Callable[[], object]) -> Bytes:
        """Run once and measure its memory."""
        self.model.zero_grad(set_to_none=True)
        kept = None

        def counted() -> object:
            nonlocal kept
            with count_kept_bytes(self.model) as kept:
                return forward()

        with PeakMemory(self.setting.device) as memory:
            self.run(counted if self.setting.train else forward)
        return Bytes(memory.peak, None if kept is None else sum(kept.values()))

    def measure_seconds(
        self, forward: Callable[[], object], runs: int
    ) -> float:
        """Return the mean duration of several runs, in seconds."""
        on_gpu = self.setting.device == 'cuda'
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(runs):
            self.run(forward)
        if on_gpu:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / runs


def _serve(
    connection: Connection, candidate: Candidate, setting: Setting
) -> None:
    """Run the process of a candidate.

    It sends its memory and then, for each number of runs that it receives, the
    mean duration of a run in seconds. An error is sent as text.
    """
    warnings.simplefilter('ignore')
    torch.set_num_threads(setting.threads)
    try:
        job = Job(candidate, setting)
        small = tuple(min(side, WARM_UP_SIDE) for side in setting.shape)
        if is_exported(candidate.name):
            # It may take images of one size only.
            small = setting.shape
        job.run(job.prepare(small))
        forward = job.prepare(setting.shape)
        connection.send(job.measure_bytes(forward))
        while runs := connection.recv():
            connection.send(job.measure_seconds(forward, runs))
    except Exception as error:
        # Any error of a model becomes a line of the report.
        line = str(error).strip().split('\n')[0]
        connection.send(f'{type(error).__name__}: {line}')


class _Worker:
    """Handle of the process of a candidate."""

    def __init__(
        self, candidate: Candidate, setting: Setting, timeout: float
    ) -> None:
        self.candidate = candidate
        self.seconds = []
        self.bytes = None
        self.error = None
        self.timeout = timeout
        context = multiprocessing.get_context('spawn')
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(other, candidate, setting), daemon=True
        )
        self.process.start()
        other.close()
        self.bytes = self._receive()
        self.runs = 1
        if self.error is None:
            # Not counted: a first run with memory already allocated.
            seconds = self._ask(1)
            self.runs = ceil(ROUND_SECONDS / seconds) if seconds else 1

    def _receive(self) -> object:
        """Wait for an answer; set :attr:`error` if there is none."""
        answer = None
        try:
            if self.connection.poll(self.timeout):
                answer = self.connection.recv()
            else:
                self.error = f'took more than {self.timeout:g} s'
        except (EOFError, ConnectionError):
            self.process.join()
            self.error = f'process ended with {self.process.exitcode}'
            if self.process.exitcode == -9:
                self.error = 'killed, probably out of memory'
        if isinstance(answer, str):
            self.error, answer = answer, None
        if self.error is not None:
            self.close()
        return answer

    def _ask(self, runs: int) -> Optional[float]:
        """Run several times; return the mean duration in seconds."""
        # A process that has died is noticed by its missing answer.
        with contextlib.suppress(ConnectionError):
            self.connection.send(runs)
        return self._receive()

    def run_round(self) -> None:
        """Measure one round."""
        seconds = self._ask(self.runs)
        if seconds is not None:
            self.seconds.append(seconds)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def compare(
    candidates: Sequence[Candidate],
    setting: Setting,
    repeat: int,
    timeout: float,
) -> List[Result]:
    """Measure candidates in alternating rounds.

    Args:
        candidates (Sequence[Candidate]): The models to compare.
        setting (Setting): The conditions to run them under.
        repeat (int): Number of rounds. In each, every candidate runs for at
            least :data:`ROUND_SECONDS`.
        timeout (float): Maximum seconds for the start with the first run, and
            for each round; a candidate that takes longer is skipped.

    Returns:
        list[Result]: The result or the error of each candidate.
    """
    workers = []
    try:
        # Sequentially, as each measures its memory at the start.
        for candidate in candidates:
            workers.append(_Worker(candidate, setting, timeout))  # noqa: PERF401
        for _ in range(repeat):
            for worker in workers:
                if worker.error is None:
                    worker.run_round()
    finally:
        for worker in workers:
            worker.close()
    first = workers[0]
    return [_result_of(worker, first, setting) for worker in workers]


def _result_of(worker: _Worker, first: _Worker, setting: Setting) -> Result:
    """Assemble the result of a process."""
    result = Result(
        candidate=worker.candidate.name,
        shape=setting.shape,
        n_win=setting.n_win if worker.candidate.has_n_win else None,
        batch_size=setting.batch_size,
        seconds=[],
        error=worker.error,
    )
    if worker.error is not None:
        return result
    ratio = None
    if first.error is None:
        pairs = zip(worker.seconds, first.seconds, strict=True)
        ratio = median(own / others for own, others in pairs)
    return result._replace(
        seconds=worker.seconds,
        ratio=ratio,
        peak_bytes=worker.bytes.peak,
        kept_bytes=worker.bytes.kept,
    )
