"""BiFormer under the heads of every folder of configs; takes a while.

Prints the table of docs/any_head.md.
"""

import pytest
from any_head import FOLDERS, check_case, parameters
from any_head_cases import CASES, WITHOUT_MODEL


@pytest.mark.slow
@pytest.mark.parametrize('case', parameters('quick', 'ci', 'every'))
def test_what_comes_of_each_config(case, rows):
    check_case(case, rows)


@pytest.mark.parametrize('scope', FOLDERS)
def test_every_folder_has_a_case(scope):
    tried = {
        case.name.partition('::')[2].partition('/')[0]
        for case in CASES
        if case.name.startswith(scope)
    }
    folders = {path.name for path in FOLDERS[scope].iterdir()}
    assert folders <= tried | WITHOUT_MODEL
