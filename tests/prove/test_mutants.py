"""Each mutation of `make prove` still has its place in the code, and its tests: else it would prove nothing."""

import re
from pathlib import Path

import pytest

from prove.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutation_has_its_place_and_its_tests(mutant: Mutant) -> None:
    assert (ROOT / mutant.path).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
    for test in mutant.tests:
        path, _, function = test.partition("::")
        assert Path(ROOT / path).is_file()
        assert not function or re.search(rf"^(async )?def {function}\(", (ROOT / path).read_text(), re.MULTILINE), test
