from types import SimpleNamespace

from mmbiformer.utils.datasets import leaf_datasets, leaf_settings

# A data set repeated, beside one that wraps nothing.
A, B = dict(type='A'), dict(type='B')
SETTINGS = dict(
    type='ConcatDataset', datasets=[dict(type='Repeat', dataset=A), B]
)


def test_settings_inside_of_wrappers():
    found = list(leaf_settings(SETTINGS))
    assert found == [A, B]
    # A check may change them in place.
    assert found[0] is A
    assert list(leaf_settings(B)) == [B]
    assert list(leaf_settings(dict(dataset=[A, B]))) == [A, B]


def test_data_sets_inside_of_wrappers():
    a, b = SimpleNamespace(), SimpleNamespace()
    repeated = SimpleNamespace(dataset=a)
    both = SimpleNamespace(datasets=[repeated, b])
    assert [id(one) for one in leaf_datasets(both)] == [id(a), id(b)]
    assert list(leaf_datasets(b)) == [b]
