"""What `purerl new` writes passes the checks that its own last lines make."""

import pytest
from commands import finished

from purerl.cli.commands.new import KINDS, example


@pytest.mark.parametrize("kind", KINDS)
def test_examples_pass_their_checks(kind, tmp_path):
    # without the flags of the tests, by which two programs of the same loop may differ in rounding
    code, _, error = finished(code=example(kind, tmp_path / "own.py"), XLA_FLAGS="")
    assert code == 0, error
