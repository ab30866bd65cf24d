from statistics import median

import busy
import pytest

import mmbiformer_threads as threads


@pytest.mark.slow
@pytest.mark.skipif(threads.usable_cores() < 2, reason='needs two cores')
def test_busy_processes_slow_training_down_by_little(monkeypatch):
    """With the spin of the tools; with OpenMP's own, tens of times."""
    spin = str(threads.GOMP_SPINCOUNT)
    loops = threads.usable_cores() + 1
    monkeypatch.setenv('GOMP_SPINCOUNT', spin)
    with busy.started('train', 'GOMP_SPINCOUNT', [spin], loops - 1) as started:
        (alone,) = busy.measure(started, 10).values()
        with busy.busy_loops(loops):
            (beside,) = busy.measure(started, 10).values()
    # Processes that share the cores fairly give it 2 / 5 of them.
    assert median(beside) < 10 * median(alone)
