"""OpenMP's threads, so that they share the cores with other processes.

    from mmbiformer_threads import limit_threads
    limit_threads()  # before torch is imported
    import torch

Threads of OpenMP meet after each operation. The first to arrive spins on its
core, by default for many milliseconds. On an idle machine that is fastest;
beside a busy process, the others may be waiting for just that core, and a
training step takes many times as long. A short spin is nearly as fast on an
idle machine, see docs/performance.md.

OpenMP reads its settings once, when torch loads it. Importing this module, or
mmbiformer, changes nothing. It needs only the standard library.
"""

import os
from pathlib import Path
from typing import Iterator, Optional

GOMP_SPINCOUNT = 1300
"""int: How often a thread of GNU's OpenMP looks before it sleeps."""
KMP_BLOCKTIME = 0
"""int: Milliseconds for which one of LLVM's or Intel's looks."""
CGROUPS = Path('/sys/fs/cgroup')
OWN_CGROUPS = Path('/proc/self/cgroup')


def limit_threads() -> None:
    """Limit the spinning, and the threads to a container's share.

    It sets environment variables, which the processes that this one starts
    inherit. Those that are set already stay as they are.
    """
    limit_spinning()
    limit_count()


def limit_spinning() -> None:
    """Let waiting threads sleep after a short spin.

    It sets ``$GOMP_SPINCOUNT`` and ``$KMP_BLOCKTIME``, unless
    ``$OMP_WAIT_POLICY`` or the variable itself is set.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', str(GOMP_SPINCOUNT))
        os.environ.setdefault('KMP_BLOCKTIME', str(KMP_BLOCKTIME))


def limit_count() -> None:
    """Start no more threads than a container's share of the cores.

    It sets ``$OMP_NUM_THREADS``, unless it is set. Without a share, OpenMP
    itself starts as many threads as there are cores that the process may use.
    """
    share = cpu_share()
    if share is not None and share < usable_cores():
        os.environ.setdefault('OMP_NUM_THREADS', str(max(1, int(share))))


def usable_cores() -> int:
    """Return the number of cores on which this process may run."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_share() -> Optional[float]:
    """Return how many cores the cgroups of this process allow it.

    Returns:
        float, optional: The quota divided by its period, the least of the
        cgroup's and those around it; None without a quota.
    """
    shares = [
        share
        for folder in _own_folders()
        for share in (_share_v2(folder), _share_v1(folder))
        if share is not None
    ]
    return min(shares, default=None)


def _own_folders() -> Iterator[Path]:
    """Yield the folders of the cgroups that this process is in."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # 0::/path in version 2, 4:cpu,cpuacct:/path in version 1.
        _, controllers, path = line.split(':', 2)
        if controllers and 'cpu' not in controllers.split(','):
            continue
        root = CGROUPS / ('cpu' if controllers else '')
        folder = root / path.lstrip('/')
        yield folder
        # Inside of a container, the path may be that outside.
        yield from (root, *(p for p in folder.parents if root in p.parents))


def _share_v2(folder: Path) -> Optional[float]:
    """Return the share of a cgroup of version 2, if it has one."""
    try:
        quota, period = (folder / 'cpu.max').read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == 'max' else int(quota) / int(period)


def _share_v1(folder: Path) -> Optional[float]:
    """Return the share of a cgroup of version 1, if it has one."""
    try:
        quota = int((folder / 'cpu.cfs_quota_us').read_text())
        period = int((folder / 'cpu.cfs_period_us').read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
