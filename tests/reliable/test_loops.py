from mmbiformer.reliable.loops import SkippedBatches


def test_batches_that_were_left_out_are_blank():
    """As mmengine's loop passes over them."""
    batches = SkippedBatches(2, iter('ab'))
    assert list(batches) == [None, None, 'a', 'b']


def test_the_forks_loop_skips_them_by_itself():
    batches = SkippedBatches(2, iter('ab'))
    batches.skip_iter(2)
    assert list(batches) == ['a', 'b']
