"""Time and memory of models side by side, each in a process of its own.

The processes take turns (A B A B …), so that whatever else slows the machine
down slows all of them. A fresh process also tells the peak of memory soundly,
and one that runs out of memory ends alone.
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

from mmbiformer.models import BiFormer
from mmbiformer.ops import ATTENTION_BACKENDS
from mmbiformer.utils.config import build_model, read_config
from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.synthetic import random_batch

BACKBONES = {
    **{
        f'biformer-{arch}': dict(type='BiFormer', arch=arch)
        for arch in BiFormer.arch_zoo
    },
    # The settings of mmdet's configs; statistics of batch norms are learnt.
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
"""dict[str, dict]: Backbones that can be named, and their configs."""

ROUND_SECONDS = 0.5
"""float: What a round takes at least; fast models run several times in it."""
WARM_UP_SIDE = 64
"""int: Side of the image that brings code into memory before measuring."""


class Candidate(NamedTuple):
    """What takes part in a comparison.

    Attributes:
        name (str): ``NAME`` or, for BiFormer, ``NAME:BACKEND``, where NAME is
            in :data:`BACKBONES`; or a config, see
            :func:`mmbiformer.utils.config.read_config`.
        is_config (bool): Whether it is a config. Default: False.
        cfg_options (dict, optional): Values that replace the config's.
            Default: None.
    """

    name: str
    is_config: bool = False
    cfg_options: Optional[dict] = None

    @property
    def has_n_win(self) -> bool:
        """Whether ``n_win`` of the setting says anything to it."""
        return not self.is_config and self.name.startswith('biformer-')

    def check(self) -> None:
        """Refuse what cannot be built.

        Raises:
            MissingFileError: If a config is not there.
            ConfigError: If a backbone or attention backend is unknown, or a
                config is not for detection or segmentation.
        """
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
    """What candidates are compared on.

    Attributes:
        shape (tuple[int, int]): Height and width of the images, in pixels.
        n_win (int): Regions per side of BiFormers that no config describes.
        batch_size (int): Images. Default: 1.
        train (bool): Forward and backward instead of inference. Default:
            False.
        amp (bool): In mixed precision: float16 on GPUs, bfloat16 on CPUs.
            Default: False.
        device (str): ``'cpu'`` or ``'cuda'``. Default: ``'cpu'``.
        threads (int): Threads on the CPU. Default: 1.
    """

    shape: Tuple[int, int]
    n_win: int
    batch_size: int = 1
    train: bool = False
    amp: bool = False
    device: str = 'cpu'
    threads: int = 1


class Result(NamedTuple):
    """What a candidate needs on a setting.

    Attributes:
        candidate (str): Its name.
        shape (tuple[int, int]): Height and width of the images, in pixels.
        n_win (int, optional): Regions per side, where the setting's counts.
        batch_size (int): Images.
        seconds (list[float]): Seconds of a run, in each round.
        ratio (float, optional): Its time in units of the first candidate's:
            the median over the rounds.
        peak_bytes (int, optional): Peak of memory above the model itself; in
            training with the gradients of its weights.
        kept_bytes (int, optional): Bytes kept between forward and backward,
            weights excluded; in training only.
        error (str, optional): Why there is nothing of this.
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
        """Images in a second, by the median over the rounds."""
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
    """Measure the peak of memory within a block, above its beginning.

    On a GPU it is that of torch's tensors; on a CPU, where nobody counts
    these, that of the process's resident memory.

    Args:
        device (str): ``'cpu'`` or ``'cuda'``.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.peak = 0

    def __enter__(self) -> 'PeakMemory':
        """Begin at the present use of memory."""
        gc.collect()
        if self.device == 'cuda':
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            # Memory that was freed, but not given back, would not be counted.
            with contextlib.suppress(AttributeError, OSError):
                ctypes.CDLL(None).malloc_trim(0)
            # Sets the highest resident memory to the present one (proc(5)).
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
        """Return the highest use of memory so far, in bytes."""
        if self.device == 'cuda':
            return torch.cuda.max_memory_allocated()
        with contextlib.suppress(OSError), open('/proc/self/status') as file:
            for line in file:
                if line.startswith('VmHWM:'):
                    return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def count_kept_bytes(model: nn.Module) -> Iterator[Dict[int, int]]:
    """Count what autograd keeps for the backward pass.

    Args:
        model (nn.Module): Whose parameters and buffers are not counted.

    Yields:
        dict[int, int]: The bytes of each piece of memory that is kept, by its
        address; it is complete after the block.
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
    """A candidate, built and ready to run.

    Args:
        candidate (Candidate): What to build.
        setting (Setting): What to run it on.
    """

    def __init__(self, candidate: Candidate, setting: Setting) -> None:
        torch.manual_seed(0)
        self.setting = setting
        self._scope = None
        if candidate.is_config:
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
        # Not chained: backbones of mmdet return nothing from train().
        self.model = model.to(setting.device)
        self.model.train(setting.train)

    def prepare(self, shape: Tuple[int, int]) -> Callable[[], object]:
        """Make a batch and return the forward pass over it.

        Args:
            shape (tuple[int, int]): Height and width of the images.

        Returns:
            Callable: Returns the loss in training.
        """
        setting, model = self.setting, self.model
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
        """Run once, with the backward pass in training."""
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
        """Return the mean seconds over some runs."""
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
    """Be the process of a candidate.

    Sends its memory; then, for every number of runs that comes, the seconds
    of one. An error is sent in words.
    """
    warnings.simplefilter('ignore')
    torch.set_num_threads(setting.threads)
    try:
        job = Job(candidate, setting)
        small = tuple(min(side, WARM_UP_SIDE) for side in setting.shape)
        job.run(job.prepare(small))
        forward = job.prepare(setting.shape)
        connection.send(job.measure_bytes(forward))
        while runs := connection.recv():
            connection.send(job.measure_seconds(forward, runs))
    except Exception as error:
        # Whatever a model raises becomes a line of the report.
        line = str(error).strip().split('\n')[0]
        connection.send(f'{type(error).__name__}: {line}')


class _Worker:
    """The process of a candidate, as seen from outside."""

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
            # Not counted: the first run on memory that was asked for before.
            seconds = self._ask(1)
            self.runs = ceil(ROUND_SECONDS / seconds) if seconds else 1

    def _receive(self) -> object:
        """Wait for an answer; note in :attr:`error` where there is none."""
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
        """Run some times; return the seconds of one."""
        # A process that has died is noticed by its missing answer.
        with contextlib.suppress(ConnectionError):
            self.connection.send(runs)
        return self._receive()

    def run_round(self) -> None:
        """Measure once more."""
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
    """Measure candidates in turn.

    Args:
        candidates (Sequence[Candidate]): What to compare.
        setting (Setting): What to compare it on.
        repeat (int): Rounds; in each, every candidate runs for at least
            :data:`ROUND_SECONDS`.
        timeout (float): Seconds that a candidate may take to start and run
            once, and for each round; it is left out if it takes longer.

    Returns:
        list[Result]: For each candidate its result, or its error.
    """
    workers = []
    try:
        # One after the other: each measures its memory as it starts.
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
    """Put together what a process has told."""
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
