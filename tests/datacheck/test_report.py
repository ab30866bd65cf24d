from pathlib import Path

from mmbiformer.datacheck.report import KINDS

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
