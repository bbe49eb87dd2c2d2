"""Evaluate a function with another meaning of some of its primitives: noise as an input, and margins of choices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import Literal

from purerl.core import Array

Rule = Callable[..., Sequence[Any]]  # (equation, *values) -> its results
# primitives that only call a function; loops and branches are not entered
_CALLS = frozenset((
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "remat2", "checkpoint",
))  # fmt: skip
_COMPARISONS = ("gt", "lt", "ge", "le")


class _Key:
    """Stands for a key that has no value."""


def _called(eqn: Any) -> Any:
    """The function that an equation calls, a closed jaxpr; None if it is no call."""
    if eqn.primitive.name not in _CALLS:
        return None
    return next((eqn.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in eqn.params), None)


def _used(jaxpr: Any) -> list[bool]:
    """Which equations have a result that a later one, or the function, uses."""
    wanted = {x for x in jaxpr.outvars if not isinstance(x, Literal)}
    used = []
    for eqn in reversed(jaxpr.eqns):
        used.append(bool(wanted & {*eqn.outvars}))
        wanted |= {x for x in eqn.invars if used[-1] and not isinstance(x, Literal)}
    return used[::-1]


def _is_known(eqn: Any, values: Sequence[Any]) -> bool:
    """Whether the results of an equation are constants."""
    sizes = [n for x in eqn.outvars for n in getattr(x.aval, "shape", (None,))]
    here = all(not isinstance(x, (Tracer, _Key)) for x in values)
    return here and all(isinstance(n, int) for n in sizes) and (bool(values) or eqn.primitive.name == "iota")


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], rules: Mapping[str, Rule], fold: bool = False
) -> list[Any]:
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda x: x.val if isinstance(x, Literal) else known[x]
    for eqn, used in zip(jaxpr.eqns, _used(jaxpr), strict=True):
        if not used:
            continue
        values, called = [read(x) for x in eqn.invars], _called(eqn)
        at_once = jax.ensure_compile_time_eval() if fold and _is_known(eqn, values) else contextlib.nullcontext()
        if called is not None:
            inner = getattr(called, "jaxpr", called)
            results = _evaluate(inner, getattr(called, "consts", ()), values, rules, fold)
        elif eqn.primitive.name in rules:
            with at_once:
                results = rules[eqn.primitive.name](eqn, *values)
        elif any(isinstance(x, _Key) for x in values):
            if not all(jnp.issubdtype(x.aval.dtype, jax.dtypes.prng_key) for x in eqn.outvars):
                raise ValueError(
                    f"the policy reads its key by `{eqn.primitive.name}`; noise can only be an input where random "
                    "numbers are drawn by jax.random, outside of loops and branches, and with keys of jax.random.key"
                )
            results = [_Key() for _ in eqn.outvars]
        else:
            bound = eqn.primitive.get_bind_params(eqn.params)  # a pair in some versions of JAX, a dict in others
            functions, params = bound if isinstance(bound, tuple) else ((), bound)
            with at_once:
                results = eqn.primitive.bind(*functions, *values, **params)
            results = results if eqn.primitive.multiple_results else [results]
        known |= zip(eqn.outvars, results, strict=True)
    return [read(x) for x in jaxpr.outvars]


def _interpret(function: Callable, args: Sequence[Any], rules: Mapping[str, Rule], values: Sequence[Any]) -> Any:
    """The result of `function` for flat `values` in place of the leaves of `args`, with other rules."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    return jax.tree.unflatten(jax.tree.structure(shape), _evaluate(closed.jaxpr, closed.consts, values, rules))


def inlined(closed: Any, rules: Mapping[str, Rule] = {}, fold: bool = False) -> Callable[..., tuple[Any, ...]]:
    """A closed jaxpr as a function in which all calls are inlined, without results that nothing uses.

    Args:
      rules: other meanings of primitives, by their names.
      fold: compute what is constant at once, not in the function.

    >>> inlined(jax.make_jaxpr(jax.jit(lambda x: x + 1))(1.0))(2.0)[0].item()
    3.0
    """
    return lambda *args: tuple(_evaluate(closed.jaxpr, closed.consts, args, rules, fold))


def with_noise(function: Callable) -> Callable:
    """A function of random bits in place of a key: `(bits, *args)`, for a `function(key, *args)`.

    bits: a list of uint32 arrays in the order in which `function` draws them; each is independent and uniform. For the
      bits that `draws` records the results are those of the key.
    Raises:
      ValueError: at trace time, if the key is used other than by `jax.random`, or inside a loop or a branch.

    >>> draw = with_noise(lambda key, x: x + jax.random.uniform(key, x.shape))
    >>> draw([jnp.array([2**31], jnp.uint32)], jnp.array([1.0])).tolist()
    [1.5]
    """

    def call(bits: Sequence[Array], *args: Any) -> Any:
        left = iter(bits)
        rules = {"random_bits": lambda eqn, key: [next(left)]}
        key = jax.eval_shape(jax.random.key, 0)
        return _interpret(function, (key, *args), rules, [_Key(), *jax.tree.leaves(args)])

    return call


def draws(function: Callable) -> Callable:
    """A function that returns the random bits which `function` draws for the same arguments, a list of uint32 arrays.

    >>> draws(lambda key, x: jax.random.uniform(key, x.shape))(jax.random.key(0), jnp.ones(3))[0].shape
    (3,)
    """

    def call(*args: Any) -> list[Array]:
        found = []

        def record(eqn, key):
            found.append(eqn.primitive.bind(key, **eqn.params))
            return found[-1:]

        _interpret(function, args, {"random_bits": record}, jax.tree.leaves(args))
        return found

    return call


def margins(function: Callable) -> Callable:
    """A function that returns how clear the choices of `function` are, in each of the first axis's N rows: float `[N]`.

    The margin of an argmax is the difference of the largest two values, divided by the size of the largest if that is
    above 1; that of a comparison of numbers, such as of log odds with 0, is their distance, that of rounding to an int
    the distance to the nearest half. The result is the smallest of all; ∞ without a choice.

    >>> choose = lambda q, p: (q.argmax(-1), p > 0)
    >>> margins(choose)(jnp.array([[1.0, 3.0, 2.0], [0.0, 9.0, 1.0]]), jnp.array([0.5, -9.0])).tolist()
    [0.333..., 0.888...]
    """

    def call(*args: Any) -> Array:
        rows, found = jax.tree.leaves(args)[-1].shape[0], []

        def add(margin):
            if margin.ndim and margin.shape[0] == rows:
                found.append(jnp.nan_to_num(margin, nan=jnp.inf, posinf=jnp.inf).reshape(rows, -1).min(-1))

        def argmax(eqn, x):
            axis = eqn.params["axes"][0]
            if x.shape[axis] > 1 and jnp.issubdtype(x.dtype, jnp.floating):
                best = jax.lax.top_k(jnp.moveaxis(x, axis, -1), 2)[0]
                gap = (best[..., 0] - best[..., 1]) / jnp.maximum(jnp.abs(best[..., 0]), 1)
                add(jnp.where(jnp.isneginf(best[..., 1]), jnp.inf, gap))
            return [eqn.primitive.bind(x, **eqn.params)]

        def comparison(eqn, x, y):
            if jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating):
                add(jnp.abs(x - y))
            return [eqn.primitive.bind(x, y, **eqn.params)]

        def rounding(eqn, x):
            add(jnp.abs(x - jnp.floor(x) - 0.5))
            return [eqn.primitive.bind(x, **eqn.params)]

        rules = {"argmax": argmax, "round": rounding, **dict.fromkeys(_COMPARISONS, comparison)}
        _interpret(function, args, rules, jax.tree.leaves(args))
        return jnp.min(jnp.stack(found), 0) if found else jnp.full(rows, jnp.inf)

    return call
