"""Starting is quick: no module is imported before it is needed."""

import shutil
import subprocess
import sys

import pytest
from commands import ANSWERS, OWN, finished, words

import purerl

HEAVY = ["gymnax", "matplotlib", "pandas", "seaborn", "rich", "click", "scipy.stats", "IPython"]
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys("jax numpy flax gymnax matplotlib".split()))  # importing one is an error
from purerl.cli.main import main
main()
"""


@pytest.mark.smoke
@pytest.mark.parametrize("arguments, code, said", ANSWERS, ids=[" ".join(a) or "nothing" for a, *_ in ANSWERS])
def test_answers_without_jax(arguments, code, said):
    got, out, error = finished(*arguments, code=WITHOUT, COLUMNS="120")
    assert got == code and said in out + error, error
    assert "Traceback" not in error


@pytest.mark.smoke
def test_imports_are_light():
    """gymnax alone takes seconds to import: it must wait until an environment is made."""
    names = [n for n in purerl.__all__]
    code = f"import purerl, sys; [getattr(purerl, n) for n in {names}]; print([m for m in {HEAVY} if m in sys.modules])"
    # what jax, flax and optax load anyway is not ours
    base = f"import jax, flax.linen, optax, sys; print([m for m in {HEAVY} if m in sys.modules])"
    loaded, given = (subprocess.run([sys.executable, "-c", c], capture_output=True, text=True) for c in (code, base))
    assert set(eval(loaded.stdout)) <= set(eval(given.stdout)), loaded.stdout + loaded.stderr


@pytest.mark.parametrize("wanted", [True, False])
def test_the_cache_of_compiled_programs_is_left_alone_where_nobody_wants_it(wanted, tmp_path):
    """Even where programs were compiled before the option is known, as a user's file may do."""
    own = shutil.copy(OWN, tmp_path)
    with open(own, "a") as file:
        file.write("jnp.arange(3.0).sum()\n")
    flags = [] if wanted else ["--no-compilation-cache"]
    job = words(f"{own}:mine", tmp_path / "run", *flags, env=f"{own}:bandit")
    changes = {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    code, _, error = finished(*job, **changes, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert code == 0, error
    assert any(tmp_path.glob("purerl/jax/*/*")) == wanted
