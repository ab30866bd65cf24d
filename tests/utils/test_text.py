import pytest

from mmbiformer.utils.text import list_some, one_line, shorten, suggest


def test_long_lists_are_cut_and_counted():
    assert list_some(list('abc'), 3) == 'a, b, c'
    assert list_some(list('abcd'), 3) == 'a, b, c, … (4 in all)'
    assert list_some([]) == ''


def test_settings_are_shortened():
    setting = dict(classes=('a', 'b'), palette=[(0, 0, 9)] * 12, root='d' * 99)
    assert shorten(setting, 3) == dict(
        classes=('a', 'b'),
        palette='[(0, 0, 9), (0, 0, 9), (0, 0, 9), … (12 in all)]',
        root='d' * 99,
    )


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (ValueError('first\n  second'), 'first second'),
        # Python would show it in quotes.
        (KeyError('no such key'), 'no such key'),
        (AssertionError(), 'AssertionError'),
    ],
)
def test_one_line(error, line):
    assert one_line(error) == line


def test_similar_names_are_suggested():
    known = ['topks', 'topk', 'n_win']
    assert suggest('topkss', known) == " (did you mean 'topks' or 'topk'?)"
    assert suggest('depth', known) == ''
