from pathlib import Path

from mmbiformer.datacheck.report import KINDS, SplitReport

ROOT = Path(__file__).resolve().parents[2]


def test_every_kind_is_documented_and_tested():
    page = (ROOT / 'docs/data_preparation.md').read_text()
    rows = [
        [cell.strip() for cell in line.strip('| ').split('|')]
        for line in page.splitlines()
        if line.startswith('|')
    ]
    table = {row[0]: row[1:] for row in rows if row[0] in KINDS}
    assert table == {
        kind: [effect, rule] for kind, (effect, rule) in KINDS.items()
    }
    tests = Path(__file__).parent.glob('test_*.py')
    text = ''.join(path.read_text() for path in tests)
    assert not [kind for kind in KINDS if f"'{kind}'" not in text]


def test_the_text_counts_what_it_does_not_list():
    report = SplitReport('train')
    report.counts['images'] = 1234
    report.extend(('missing image', f'{index}.jpg') for index in range(5))
    report.add('CMYK image', '7.jpg')
    assert report.text(show=2).splitlines() == [
        'train',
        '      1,234 images',
        '  stops: training or testing stops with an error',
        '    missing image: 5 (an error names the file)',
        '      0.jpg',
        '      1.jpg',
        '      and 3 more',
        '  note: used',
        '    CMYK image: 1 (converted to RGB without a color profile)',
        '      7.jpg',
    ]
    assert 'more' not in report.text(show=5)


def test_problems_that_are_fatal():
    report = SplitReport('train')
    report.extend((kind, '') for kind in KINDS)
    harmless = [kind for kind in KINDS if kind not in report.fatal]
    assert {KINDS[kind].effect for kind in report.fatal} == {'stops', 'wrong'}
    assert {KINDS[kind].effect for kind in harmless} == {'skipped', 'note'}
