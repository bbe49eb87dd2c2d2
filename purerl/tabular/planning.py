"""Exact solutions of known MDPs: pure functions, for jit, grad and vmap over MDPs.

With γ = 1 every policy of a method must terminate with probability 1, or its value is not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl.arguments import check_counts, is_known
from purerl.bellman import soft_value, softmax_policy, state_value
from purerl.core import Array
from purerl.tabular.mdp import (
    MDP,
    as_array,
    backup,
    checked,
    expectation_of_next,
    expected_reward,
    legal_of,
    look_ahead,
    start_of,
    transition_matrix,
)
from purerl.tabular.mdp import uniform as uniform_policy

_ROUNDS_IN_VAIN = 10  # policy iteration's last ones, if rounding makes it turn in circles


class Solution(NamedTuple):
    """Optimal values and an optimal policy."""

    value: Array  # V*(s) [S]
    q: Array  # Q*(s,a) [S, A]
    policy: Array  # probabilities [S, A]: of equal actions the first; soft: the softmax
    sweeps: Array  # int32: sweeps over the states, or rounds of policy iteration
    residual: Array  # float []: the largest change of the last one


class AverageReward(NamedTuple):
    """Average reward per step (gain) and relative values (bias), of the optimal or a given policy."""

    gain: Array  # a scalar
    bias: Array  # [S], 0 in state 0
    policy: Array  # [S, A]
    sweeps: Array  # int32 []


def _check(function: str, mdp: MDP, policy: Array | None = None, **counts: int) -> None:
    checked(mdp)
    check_counts(function, **counts)
    if policy is None:
        return
    pairs = jnp.shape(mdp.P)[:2]
    if jnp.shape(policy) != pairs:
        raise ValueError(f"{function}: policy has shape {jnp.shape(policy)}; it must be probabilities {pairs}")
    if mdp.legal is None or not is_known(mdp.legal, mdp.terminal, policy):
        return
    wrong = (np.asarray(policy) > 0) & ~np.asarray(mdp.legal, bool) & ~np.asarray(mdp.terminal)[:, None]
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(f"{function}: policy takes what is not legal, (state, action) {at}; those must be 0")


def _check_endless(function: str, mdp: MDP) -> None:
    if is_known(mdp.terminal) and np.asarray(mdp.terminal).any():
        raise ValueError(f"{function}: mdp has terminal states; an average reward is of endless runs")


def _first_best(q: Array) -> Array:
    return jax.nn.one_hot(q.argmax(-1), q.shape[-1], dtype=q.dtype)


def _zeros(mdp: MDP) -> Array:
    return jnp.zeros(jnp.shape(mdp.P)[:1], expected_reward(mdp).dtype)


def _changes(new: Array, old: Array) -> Array:
    """|new - old| of each entry; none where both are -inf."""
    return jnp.where(new == old, 0.0, jnp.abs(new - old))


class _Progress(NamedTuple):
    """How near to rest sweeps are, and for how many of them that has not improved."""

    ratio: Array  # the largest change of a value in 4 ulp of it; at rest 1 or less
    least_ratio: Array
    least_residual: Array
    waited: Array

    @staticmethod
    def begin(dtype) -> _Progress:
        far = jnp.full((), jnp.inf, dtype)
        return _Progress(far, far, far, jnp.zeros((), jnp.int32))

    def after(self, change: Array, scale: Array) -> _Progress:
        """change, scale: alike in shape; a change counts in units of its own scale."""
        # an unscaled product of eps and a small value would underflow
        ratio = (jnp.where(change == 0, 0.0, change / jnp.abs(scale)) / (4 * jnp.finfo(change.dtype).eps)).max()
        nearer = (ratio < self.least_ratio) | (change.max() < self.least_residual)
        return _Progress(
            ratio,
            jnp.minimum(self.least_ratio, ratio),
            jnp.minimum(self.least_residual, change.max()),
            jnp.where(nearer, 0, self.waited + 1),
        )

    def go_on(self, num_states: int) -> Array:
        """News of one state may take as many sweeps as there are states to reach another, and change little else."""
        return (self.ratio > 1) & (self.waited < 1000 + num_states)


def _repeat(sweep, value, tolerance, max_sweeps: int) -> tuple[Array, Array, Array]:
    """Repeat a sweep until no value changes by more than the tolerance: (value, sweeps, residual).

    Without a tolerance, until every change is rounding: 4 ulp of that value, whatever others are; or until changes
    have stopped to shrink, since rounded sweeps can end in a cycle: values that swap places keep a difference of up to
    1 / (2 - 2γ) ulp for ever.
    """

    def go_on(carry):
        _, count, residual, progress = carry
        unsettled = progress.go_on(len(value)) if tolerance is None else residual > tolerance
        return (count < max_sweeps) & unsettled

    def body(carry):
        value, count, _, progress = carry
        new = sweep(value)
        change = _changes(new, value)
        if tolerance is None:
            progress = progress.after(change, new)
        return new, count + 1, change.max(), progress

    begin = (value, jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, value.dtype), _Progress.begin(value.dtype))
    return jax.lax.while_loop(go_on, body, begin)[:3]


# --- of a policy --------------------------------------------------------------------------------------------------


def evaluate(mdp: MDP, policy: Array, gamma) -> Array:
    """V of a policy by a linear solve; differentiable in all arguments.

        V = (I - γ P_π)⁻¹ R_π

    Args:
      policy: probabilities `[S, A]`.  gamma: in [0, 1].
    Returns:
      V, float `[S]`.
    Raises:
      ValueError: if shapes disagree, as for every function in this module.
    Reference: Sutton & Barto, 2018, eq. 4.3.

    >>> from purerl.tabular import uniform, worlds
    >>> walk = worlds.random_walk(3)
    >>> [round(v, 4) for v in evaluate(walk, uniform(walk), 1.0).tolist()]
    [0.0, 0.25, 0.5, 0.75, 0.0]
    """
    _check("evaluate", mdp, policy)
    policy = as_array(policy)
    reward = state_value(policy, expected_reward(mdp))
    return jnp.linalg.solve(jnp.eye(len(reward)) - gamma * transition_matrix(mdp, policy), reward)


def iterate_evaluation(mdp: MDP, policy: Array, gamma, tolerance=None, max_sweeps: int = 100_000) -> Solution:
    """V of a policy by synchronous sweeps from V = 0.

        V(s) ← Σ π(a|s) (E[r] + γ E[V(s')])

    Args:
      tolerance: stop when no value changes by more; None: by more than rounding, 4 ulp of that value, or when changes
        no longer shrink; 0 with `max_sweeps=k`: k sweeps.
    Returns:
      A `Solution` with the policy given, its V and its Q.
    Reference: Sutton & Barto, 2018, eq. 4.5.
    """
    _check("iterate_evaluation", mdp, policy, max_sweeps=max_sweeps)
    policy, q_of = as_array(policy), backup(mdp, gamma)
    value, sweeps, residual = _repeat(lambda v: state_value(policy, q_of(v)), _zeros(mdp), tolerance, max_sweeps)
    return Solution(value, q_of(value), policy, sweeps, residual)


def evaluate_average(mdp: MDP, policy: Array) -> AverageReward:
    """The average reward of a policy, its gain, by a linear solve; differentiable in everything.

        g + h = R_π + P_π h,   h(0) = 0

    Args:
      policy: probabilities `[S, A]`, under which all states lead to one recurrent class: then the gain is one number.
        With several classes the system is singular, and the gain not finite or meaningless.
    Returns:
      An `AverageReward` with the policy given and 0 sweeps.
    Raises:
      ValueError: if shapes disagree, a state is terminal, or the policy takes illegal actions.
    Reference: Puterman, 1994, section 8.2; Sutton & Barto, 2018, section 10.3.

    >>> from purerl.tabular import uniform, worlds
    >>> river = worlds.river_swim()
    >>> round(evaluate_average(river, jnp.eye(2)[jnp.ones(6, int)]).gain.item(), 4)  # always up
    0.4286
    """
    _check("evaluate_average", mdp, policy)
    _check_endless("evaluate_average", mdp)
    policy = as_array(policy)
    reward = state_value(policy, expected_reward(mdp))
    # h(0) is known, so its column is the gain's
    matrix = (jnp.eye(len(reward), dtype=reward.dtype) - transition_matrix(mdp, policy)).at[:, 0].set(1.0)
    solved = jnp.linalg.solve(matrix, reward)
    return AverageReward(solved[0], solved.at[0].set(0.0), policy, jnp.zeros((), jnp.int32))


def occupancy(mdp: MDP, policy: Array, gamma) -> Array:
    """Discounted state occupancy: d(s) = Σ γᵗ P(sₜ = s), float `[S]`; terminal states are counted at most once.

    Reference: Sutton & Barto, 2018, section 9.2.
    """
    _check("occupancy", mdp, policy)
    start = start_of(mdp)
    return jnp.linalg.solve((jnp.eye(len(start)) - gamma * transition_matrix(mdp, policy)).T, start)


def objective(mdp: MDP, policy: Array, gamma) -> Array:
    """J = Σ start(s) V(s): the expected return of a policy `[S, A]`, a scalar."""
    return start_of(mdp) @ evaluate(mdp, policy, gamma)


def policy_gradient(mdp: MDP, logits: Array, gamma) -> Array:
    """The exact policy gradient of a tabular softmax policy, which REINFORCE estimates.

        ∂J/∂θ(s,a) = d(s) π(a|s) (Q(s,a) - V(s)),   π = softmax(θ)

    Args:
      logits: θ, float `[S, A]`; the policy is the softmax over legal actions.
    Returns:
      The gradient, float `[S, A]`. (`jax.grad` of `objective` gives the same, for any parametrisation.)
    Reference: Sutton et al., 2000, theorem 1; Agarwal et al., 2021, arXiv:1908.00261, lemma C.1.
    """
    _check("policy_gradient", mdp)
    if jnp.shape(logits) != jnp.shape(mdp.P)[:2]:
        raise ValueError(f"policy_gradient: logits has shape {jnp.shape(logits)}; it must be {jnp.shape(mdp.P)[:2]}")
    legal, logits = legal_of(mdp), as_array(logits)
    policy = softmax_policy(logits if legal is None else jnp.where(legal, logits, -jnp.inf))
    value = evaluate(mdp, policy, gamma)
    advantage = look_ahead(mdp, value, gamma) - value[:, None]
    if legal is not None:
        advantage = jnp.where(legal, advantage, 0.0)
    return jnp.where(as_array(mdp.terminal), 0.0, occupancy(mdp, policy, gamma))[:, None] * policy * advantage


# --- of the best policy -------------------------------------------------------------------------------------------


def value_iteration(mdp: MDP, gamma, tolerance=None, max_sweeps: int = 100_000) -> Solution:
    """V* by sweeps of the Bellman optimality backup from V = 0.

        V(s) ← max E[r] + γ E[V(s')]

    With γ < 1 the error is at most γ / (1 - γ) times the residual, beside rounding.
    Args:
      tolerance: stop when no value changes by more; None: by more than rounding, 4 ulp of that value, or when changes
        no longer shrink. So small values beside large ones are exact to 4 / (1 - γ) ulp, if they do not hang on them.
    Reference: Sutton & Barto, 2018, eq. 4.10.

    >>> from purerl.tabular import worlds
    >>> value_iteration(worlds.cliff(), 1.0).value[36].item()
    -13.0
    """
    _check("value_iteration", mdp, max_sweeps=max_sweeps)
    q_of = backup(mdp, gamma)
    value, sweeps, residual = _repeat(lambda v: q_of(v).max(-1), _zeros(mdp), tolerance, max_sweeps)
    q = q_of(value)
    return Solution(value, q, _first_best(q), sweeps, residual)


def policy_iteration(mdp: MDP, gamma, max_rounds: int = 1_000, initial: Array | None = None) -> Solution:
    """V* by alternating exact policy evaluation and greedy improvement, until the policy does not change.

    An action is changed only if another one is better by more than rounding, 64 ulp of that state's sums, so ties
    cannot cause cycles. It also stops after ten rounds in which no state value exceeded its previous maximum.
    Args:
      initial: the first policy, probabilities `[S, A]`; None: the uniform one. With γ = 1 it must end for sure.
    Raises:
      ValueError: if shapes disagree, or the first policy takes illegal actions.
    Reference: Howard, 1960; Sutton & Barto, 2018, section 4.3.
    """
    _check("policy_iteration", mdp, initial, max_rounds=max_rounds)
    q_of, reward, expectation = backup(mdp, gamma), expected_reward(mdp), expectation_of_next(mdp)

    def improve(carry):
        policy, value, highest, waited, rounds, _ = carry
        q = q_of(value)
        best = _first_best(q)
        # of each state's own sums: a state worth little beside one worth much has improvements as well
        size = jnp.abs(reward) + gamma * expectation(jnp.abs(value))
        rounding = 64 * jnp.finfo(q.dtype).eps * jnp.maximum(state_value(best, size), state_value(policy, size))
        better = q.max(-1) > state_value(policy, q) + rounding
        policy = jnp.where(better[:, None], best, policy)
        new = evaluate(mdp, policy, gamma)
        # what is better makes its state worth more than ever; otherwise only the solve's rounding was seen
        waited = jnp.where((new > highest + rounding).any(), 0, waited + 1)
        waited = waited + jnp.where(better.any(), 0, _ROUNDS_IN_VAIN)
        return policy, new, jnp.maximum(highest, new), waited, rounds + 1, _changes(new, value).max()

    policy = uniform_policy(mdp) if initial is None else as_array(initial).astype(reward.dtype)
    value = evaluate(mdp, policy, gamma)
    none = jnp.zeros((), jnp.int32)
    begin = (policy, value, value, none, none, jnp.full((), jnp.inf, value.dtype))
    go_on = lambda carry: (carry[3] < _ROUNDS_IN_VAIN) & (carry[4] < max_rounds)
    _, value, _, _, rounds, residual = jax.lax.while_loop(go_on, improve, begin)
    q = q_of(value)
    return Solution(value, q, _first_best(q), rounds, residual)


def modified_policy_iteration(
    mdp: MDP, gamma, num_evaluations: int = 10, tolerance=None, max_rounds: int = 100_000
) -> Solution:
    """Greedy improvement, then a number of evaluation sweeps of that policy; with one sweep it is value iteration.

    Reference: Puterman & Shin, 1978; Sutton & Barto, 2018, section 4.6 (generalised policy iteration).
    """
    _check("modified_policy_iteration", mdp, num_evaluations=num_evaluations, max_rounds=max_rounds)

    q_of = backup(mdp, gamma)

    def sweep(value):
        q = q_of(value)
        best = q.argmax(-1)
        take = lambda q: jnp.take_along_axis(q, best[:, None], axis=-1)[:, 0]
        again = lambda _, value: take(q_of(value))
        return jax.lax.fori_loop(1, num_evaluations, again, take(q))

    value, rounds, residual = _repeat(sweep, _zeros(mdp), tolerance, max_rounds)
    q = q_of(value)
    return Solution(value, q, _first_best(q), rounds, residual)


def finite_horizon(mdp: MDP, horizon: int, gamma=1.0) -> tuple[Array, Array]:
    """Optimal values and actions for a finite horizon.

        V₀ = 0,   Vₖ(s) = max E[r] + γ E[Vₖ₋₁(s')]

    Returns:
      V with k steps left, float `[horizon + 1, S]`, and the best action then, int32 `[horizon, S]` for k = 1, 2, …
    Reference: Bellman, 1957; Puterman, 1994, section 4.5.
    """
    _check("finite_horizon", mdp, horizon=horizon)

    q_of = backup(mdp, gamma)

    def sweep(value, _):
        q = q_of(value)
        return q.max(-1), (q.max(-1), q.argmax(-1).astype(jnp.int32))

    first = _zeros(mdp)
    _, (values, actions) = jax.lax.scan(sweep, first, length=horizon)
    return jnp.concatenate([first[None], values]), actions


def soft_value_iteration(mdp: MDP, gamma, temperature, tolerance=None, max_sweeps: int = 100_000) -> Solution:
    """The optimal policy with an entropy bonus of τ per nat, π = softmax(Q/τ).

        V(s) ← τ log Σ e^{Q(s,a)/τ}

    Args:
      temperature: τ > 0.
    Reference: Ziebart, 2010; Haarnoja et al., 2017, arXiv:1702.08165, theorem 2.
    """
    _check("soft_value_iteration", mdp, max_sweeps=max_sweeps)
    ends, q_of = as_array(mdp.terminal), backup(mdp, gamma)
    sweep = lambda value: jnp.where(ends, 0.0, soft_value(q_of(value), temperature))
    value, sweeps, residual = _repeat(sweep, _zeros(mdp), tolerance, max_sweeps)
    q = q_of(value)
    return Solution(value, q, softmax_policy(q, temperature), sweeps, residual)


def q_lambda_values(
    mdp: MDP, gamma, lam, policy_of: Callable[[Array], Array], length: int, tolerance=None, max_sweeps: int = 100_000
) -> Solution:
    """The fixed point of Peng's Q(λ) for a behaviour policy μ and returns truncated after blocks of `length` steps.

        Q = 1/T Σₖ Gₖ,   G₁ = r + γ E[max Q(s')],   Gₖ = r + γ E[(1 - λ) max Q(s') + λ Σ μ(a'|s') Gₖ₋₁(s',a')]

    for k from 1 to T, each as likely. At λ = 0, or T = 1, that is Q*; else it lies between Q* and the value of μ.
    Args:
      policy_of: `q [S, A] -> μ [S, A]`, such as `lambda q: exploration.epsilon_greedy_probs(q, 0.1)`.
      length: T.
    Returns:
      A `Solution` whose policy is μ and whose value is max Q.
    Reference: Peng & Williams, 1994; Harutyunyan et al., 2016, arXiv:1602.04951.

    >>> from purerl.tabular import worlds
    >>> mdp = worlds.random_walk(3)
    >>> print(q_lambda_values(mdp, 0.9, 0.0, lambda q: jnp.full(q.shape, 0.5), 8).q[2, 1].round(2))
    0.9
    """
    _check("q_lambda_values", mdp, length=length)
    ends, q_of = as_array(mdp.terminal), backup(mdp, gamma)

    def sweep(q):
        best, policy = jnp.where(ends, 0.0, q.max(-1)), policy_of(q)

        def longer(carry, _):
            returns, total = carry
            goes_on = jnp.where(ends, 0.0, state_value(policy, returns))
            returns = q_of((1 - lam) * best + lam * goes_on)
            return (returns, total + returns), None

        first = q_of(best)
        (_, total), _ = jax.lax.scan(longer, (first, first), length=length - 1)
        return total / length

    begin = expected_reward(mdp)
    begin = jnp.where(jnp.isneginf(begin), begin, 0.0)  # what is not legal stays so
    q, sweeps, residual = _repeat(sweep, begin, tolerance, max_sweeps)
    return Solution(jnp.where(ends, 0.0, q.max(-1)), q, policy_of(q), sweeps, residual)


def relative_value_iteration(mdp: MDP, tolerance=None, max_sweeps: int = 1_000_000) -> AverageReward:
    """The optimal average reward of an MDP without terminal states in which every state can be reached.

        g + h(s) = max E[r] + E[h(s')],   h(0) = 0

    In effect every second step stays in its state, so that cycles do not prevent convergence.
    Args:
      tolerance: stop when the bounds of the gain differ by at most this; None: by rounding only.
    Raises:
      ValueError: if a state is terminal.
    Reference: White, 1963; Puterman, 1994, sections 8.5.4 and 8.5.5.
    """
    _check("relative_value_iteration", mdp, max_sweeps=max_sweeps)
    _check_endless("relative_value_iteration", mdp)
    reward, expectation = expected_reward(mdp), expectation_of_next(mdp)
    lazy = lambda bias: reward + 0.5 * expectation(bias) + 0.5 * bias[:, None]

    def go_on(carry):
        _, _, count, spread, progress = carry
        unsettled = progress.go_on(len(reward)) if tolerance is None else spread > tolerance
        return (count < max_sweeps) & unsettled

    def body(carry):
        bias, _, count, _, progress = carry
        new = lazy(bias).max(-1)
        change = new - bias
        spread = change.max() - change.min()
        # the gain is one number of all states, and rounded as the largest of them
        progress = progress.after(spread, jnp.abs(new).max())
        return new - new[0], 0.5 * (change.max() + change.min()), count + 1, spread, progress

    bias = _zeros(mdp)
    far = jnp.full((), jnp.inf, bias.dtype)
    begin = (bias, jnp.zeros((), bias.dtype), jnp.zeros((), jnp.int32), far, _Progress.begin(bias.dtype))
    bias, gain, sweeps, *_ = jax.lax.while_loop(go_on, body, begin)
    return AverageReward(gain, 0.5 * bias, _first_best(lazy(bias)), sweeps)
