"""What holds for the whole tree: import directions, docstrings, banned words, no hosts."""

import ast
import contextlib
import doctest
import functools
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import purerl

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "purerl"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "purerl.")]


def module_of(path):
    """The dotted name of a file, without "purerl"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


BY_NAME = {module_of(path): path for path in FILES}


def imports(path):
    """Modules of the package that a file imports, at its top or inside functions, but for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "purerl":
            module = node.module.partition(".")[2]
            for alias in node.names:
                inside = f"{module}.{alias.name}".strip(".")
                yield inside if inside in BY_NAME else module
        elif isinstance(node, ast.Import):
            yield from (a.name.partition(".")[2] for a in node.names if a.name.startswith("purerl."))


# each may import the layers above it in this list, and its own
LAYERS = (
    ("core",),
    ("hyperparameters", "arguments"),
    ("schedules", "statistics", "bellman", "returns", "losses", "tabular.mdp"),
    ("distributions", "gradients"),
    ("exploration", "normalize", "replay", "networks", "rewards"),
    ("envs", "training"),
    ("tabular", "testing"),
    ("text",),
    ("agents.parts",),
    ("agents",),
    ("build",),
    ("export", "search"),
    ("runs",),
    ("cli", "__main__"),
)
# and never these, though they lie above
FORBIDDEN = {"agents": ("envs", "training", "tabular", "testing"), "training": ("envs",), "envs": ("training",)}


def layer_of(module):
    """The number of a module's layer, and the name by which `LAYERS` has it."""
    found = [(i, name) for i, names in enumerate(LAYERS) for name in names if f"{module}.".startswith(f"{name}.")]
    return max(found, key=lambda x: len(x[1]))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    module = module_of(path)
    if not module:  # the package itself re-exports what it has
        return
    number, name = layer_of(module)
    for other in filter(None, imports(path)):
        assert layer_of(other)[0] <= number, f"{module} imports {other}"
        assert not any(f"{other}.".startswith(f"{x}.") for x in FORBIDDEN.get(name.split(".")[0], ())), (module, other)


def circles(graph):
    """Sets of nodes each of which can be reached from each other, of more than one node."""
    reached = {node: set() for node in graph}
    for node in graph:
        pending = list(graph[node])
        while pending:
            if (other := pending.pop()) not in reached[node]:
                reached[node].add(other)
                pending.extend(graph[other])
    return {frozenset(m for m in reached[n] if n in reached[m]) for n in graph if n in reached[n]}


def test_no_imports_form_a_circle():
    """A package that re-exports its modules does not count as one of them: inside it they import each other."""
    graph = {module: {x for x in imports(path) if x and x != module} for module, path in BY_NAME.items() if module}
    assert circles(graph) == set()
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {frozenset("abc")}


def test_every_public_name_is_there_and_typed():
    for name in purerl.__all__:
        assert getattr(purerl, name) is not None and name in dir(purerl)
    block = next(n for n in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(n, ast.If))
    typed = {alias.name for node in block.body for alias in node.names}
    assert typed == set(purerl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        purerl.nothing  # noqa: B018


@pytest.mark.parametrize("name", [name for name in purerl._MODULES if name != "cli"])
def test_modules_list_what_is_public(name):
    module = importlib.import_module(f"purerl.{name}")
    own = {key for key, x in vars(module).items() if getattr(x, "__module__", "") == module.__name__ and key[0] != "_"}
    assert own <= set(module.__all__)
    for key in module.__all__:
        assert hasattr(module, key)


def test_submodules_need_no_import_of_their_own():
    code = "import purerl; purerl.agents.ppo.ppo, purerl.agents.parts, purerl.testing.probes, purerl.testing.check_env"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def of_public(name):
    """The public functions and classes that a module defines, by name."""
    module = importlib.import_module(name)
    for key, value in vars(module).items():
        own = getattr(value, "__module__", None) == name and not key.startswith("_")
        if own and (inspect.isfunction(value) or inspect.isclass(value)):
            yield key, value


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_say_what_they_do(name):
    assert importlib.import_module(name).__doc__
    for key, value in of_public(name):
        assert value.__doc__, f"{name}.{key} has no docstring"


# brackets such as `[..., A]`, a word for a shape or a dtype, or a reference to what has the same arguments
SHAPED = re.compile(r"\[[^]]*\]|\bscalars?\b|elementwise|any shape|pytree|as (for|in) `|\b(float|int|uint|bool)\d*\b")


def is_array(annotation):
    return bool(re.search(r"\bArray\b", annotation)) and "Callable" not in annotation


@functools.cache
def classes_of(name):
    """The classes of a module as their source has them, and its lines."""
    source = BY_NAME[name.partition(".")[2]].read_text(encoding="utf-8")
    return {x.name: x for x in ast.walk(ast.parse(source)) if isinstance(x, ast.ClassDef)}, source.split("\n")


def array_fields(name, key):
    """The fields of a class that are arrays, each with the comment beside it."""
    classes, lines = classes_of(name)
    for x in classes[key].body if key in classes else ():
        if isinstance(x, ast.AnnAssign) and is_array(ast.unparse(x.annotation)):
            yield ast.unparse(x.target), lines[x.end_lineno - 1].partition("#")[2]


@pytest.mark.parametrize("name", MODULES)
def test_shapes_or_dtypes_of_arrays_are_said(name):
    """In the docstring of a public function that takes an array; of a field, beside it or in its class's docstring."""
    for key, value in of_public(name):
        said = SHAPED.search(value.__doc__ or "")
        if inspect.isfunction(value):
            takes = [x.name for x in inspect.signature(value).parameters.values() if is_array(str(x.annotation))]
            assert said or not takes, f"{name}.{key} takes {takes}, and its docstring has neither shape nor dtype"
        else:
            for field, comment in array_fields(name, key):
                assert said or SHAPED.search(comment), f"{name}.{key}.{field} is an array of unknown shape and dtype"


@pytest.mark.parametrize("name", MODULES)
def test_fields_of_configs_say_what_they_are(name):
    """What `option` is given becomes the help of the command line and a row of the agent's page."""
    for key, value in of_public(name):
        for field in getattr(value, "__dataclass_fields__", {}).values():
            if "share" in field.metadata:
                assert len(field.metadata["doc"].split()) > 1 or field.metadata["doc"].isidentifier(), (key, field.name)


def test_agents_have_the_parts_of_a_page():
    """A paper, an equation and limits: the site's pages of agents are made of them."""
    for name in purerl.agents.names():
        module = importlib.import_module(f"purerl.agents.{name}")
        about = inspect.getdoc(getattr(module, name))
        assert re.search(r"arXiv:|doi:", module.__doc__), f"{name} has no paper"
        assert re.search(r"^ {4}\S.*\S", about, re.MULTILINE), f"{name} has no equation"
        assert "\nLimits:\n" in about, f"{name} has no limits"


def as_one_program(function):
    """The function, compiled whole where its arguments and results allow it: op by op, each would be a program.

    So are the functions that it gives, alone or in a tuple.
    """
    here = object()

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def program(structure, known, arrays):
        arrays = iter(arrays)
        args, kwargs = structure.unflatten([next(arrays) if x is here else x for x in known])
        return function(*args, **kwargs)

    @functools.wraps(function)
    def call(*args, **kwargs):
        leaves, structure = jax.tree.flatten((args, kwargs))
        arrays = [x for x in leaves if isinstance(x, jax.Array)]
        known = tuple(here if isinstance(x, jax.Array) else x for x in leaves)
        if arrays:
            with contextlib.suppress(TypeError, ValueError, jax.errors.JAXTypeError):
                return program(structure, known, arrays)
        given = function(*args, **kwargs)  # it gives functions, or looks at values
        if not any(map(inspect.isfunction, jax.tree.leaves(given))):
            return given  # as it is: a map over a tree puts the keys of a dict in order
        return jax.tree.map(lambda x: as_one_program(x) if inspect.isfunction(x) else x, given)

    return call


def functions_as_one_program(module):
    own = {key: x for key, x in vars(module).items() if inspect.isfunction(x) and x.__module__ == module.__name__}
    return {**vars(module), "jnp": jnp, "jax": jax} | {key: as_one_program(x) for key, x in own.items()}


@pytest.mark.wide
@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name, monkeypatch):
    module = importlib.import_module(name)
    for method in ("init", "apply"):
        monkeypatch.setattr(nn.Module, method, as_one_program(getattr(nn.Module, method)))
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs=functions_as_one_program(module)):
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test)
        assert runner.failures == 0, test.name


BANNED = {
    r"\bdone\b": "there are terminated and truncated",
    r"PRNGKey\(|random\.key\(\d": "no literal keys inside the package",
    r"\.squeeze\(\)": "a squeeze needs an axis",
    r"config\[": "hyperparameters are fields",
    r"\brng\b": "keys are keys",
    r"\bpmap\b|\bpmean\b|axis_name": "devices come from outside",
}


def code_of(path):
    """A file without its strings and comments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_banned_words(path):
    code = code_of(path)
    for pattern, why in BANNED.items():
        allowed = (path.parent.name == "adapters" or path.name == "wrappers.py") and pattern == r"\bdone\b"
        if pattern == r"\brng\b":
            allowed = path.name in ("statistics.py", "designs.py")  # of NumPy, and an argument of SciPy's
        if pattern == r"config\[":
            allowed = path.parent.name == "runs"  # there it is what config.json holds
        assert allowed or not re.search(pattern, code), f"{path.name}: {why}"


def tracked():
    out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = out.stdout.split("\n") if out.returncode == 0 else []
    return [ROOT / n for n in names if n and (ROOT / n).is_file() and not n.endswith(".png")]


def test_no_registry_host_and_no_path_of_a_machine_is_committed():
    bad = re.compile(
        "|".join(
            [
                "index" + "-url",
                "find" + "-links",
                r"https?://[^ ]*/" + "simple",
                r"/(ro" + r"ot|ho" + r"me)/\w",
            ]
        )
    )
    for path in tracked():
        found = bad.search(path.read_text(encoding="utf-8", errors="ignore"))
        assert not found, f"{path}: {found}"


def test_agents_fit_on_two_screens():
    for path in (PACKAGE / "agents").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 130, path
