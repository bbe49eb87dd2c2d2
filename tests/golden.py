"""The first numbers of every agent of the table from one seed, the size of its program, and its defaults.

    python tests/golden.py

writes them anew. A difference in numbers is a change of results: add a line under RESULTS in CHANGELOG.md. A program
that has grown gets a line in CHANGELOG.md that says what for.
"""

import dataclasses
import json
from pathlib import Path

import jax
import zoo

FOLDER = Path(__file__).parent / "golden"
METRICS, PROGRAMS, DEFAULTS = (FOLDER / f"{name}.json" for name in ("metrics", "programs", "defaults"))


def equations(jaxpr):
    """The equations of a jaxpr and of all that lies inside it."""
    return sum(1 + sum(equations(inner) for inner in inside_of(eqn.params)) for eqn in jaxpr.eqns)


def inside_of(params):
    for value in params.values():
        for inner in value if isinstance(value, (tuple, list)) else [value]:
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner


def size(name):
    """Equations of one step of an agent's learner, environment and all."""
    return equations(zoo.traced(name).step)


def version():
    """The versions of jax whose programs have the same size: 0.9 of 0.9.2."""
    return ".".join(jax.__version__.split(".")[:2])


def measure(name):
    """Metrics of the first updates, one number an update; NaN where no episode finished."""
    metrics = zoo.finished(name).metrics
    return {key: [float(f"{x:.6g}") for x in values.tolist()] for key, values in sorted(metrics.items())}


def defaults(config):
    """A config's default of every field, as JSON has them."""
    return json.loads(json.dumps({field.name: field.default for field in dataclasses.fields(config)}))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write = lambda path, data: path.write_text(json.dumps(data, indent=1) + "\n")
    sizes = json.loads(PROGRAMS.read_text()) if PROGRAMS.exists() else {}
    write(PROGRAMS, {**sizes, version(): {name: size(name) for name in zoo.ROWS}})
    write(METRICS, {name: measure(name) for name in zoo.ROWS})
    write(DEFAULTS, {(config := type(zoo.row(name).hp)).__name__: defaults(config) for name in zoo.ROWS})
