"""Tabular learning algorithms as agents, for environments whose observation is a state index.

`envs.Table(mdp)` is such an environment. (Of observations that are dicts the number is the entry `state`.) With blocks
of one step in one environment these are the online algorithms of the textbook; a block of T steps acts with the table
of its beginning and learns from its steps in order, and of N environments each step's changes are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.arguments import check_counts
from purerl.bellman import Backup, Next, double_backup, expected_backup, max_backup, sarsa_backup
from purerl.core import Agent, Array
from purerl.exploration import epsilon_greedy, epsilon_greedy_probs
from purerl.hyperparameters import config, option
from purerl.tabular.mdp import as_array


@config
class Control:
    """Hyperparameters of `control`."""

    step_size: float = option(0.5, "α: how far an update goes towards its target", low=0.0, high=1.0)
    step_power: float = option(0.0, "α falls as N^-power with the N updates of a pair: 1 averages", low=0.0, high=1.0)
    gamma: float = option(1.0, "discount", low=0.0, high=1.0)
    epsilon: float = option(0.1, "probability of a random action", low=0.0, high=1.0)
    initial: float = option(0.0, "Q before it is learned: optimistic where it is large")


@config
class Prediction:
    """Hyperparameters of `n_step_td` and `td_lambda`."""

    step_size: float = option(0.1, "α: how far an update goes towards its target", low=0.0, high=1.0)
    gamma: float = option(1.0, "discount", low=0.0, high=1.0)
    td_lambda: float = option(0.9, "λ of the traces", low=0.0, high=1.0)
    n: int = option(1, "steps until the bootstrap", low=1)
    initial: float = option(0.0, "V before it is learned")


class Steps(NamedTuple):
    """The steps of an update, leaves `[N]` or `[T, N]`."""

    state: Array
    action: Array
    reward: Array
    following: Array
    terminated: Array
    ended: Array
    valid: Array


def _state_of(obs: Any) -> Array:
    """The state indices."""
    return obs["state"] if isinstance(obs, Mapping) else obs


def _steps(rollout: Any) -> Steps:
    tr = rollout.transitions
    ended = tr.terminated | tr.truncated
    return Steps(_state_of(tr.obs), tr.action, tr.reward, _state_of(tr.next_obs), tr.terminated, ended, tr.valid)


def _none(obs: Array) -> Steps:
    """Steps that are not valid, `[N]`, in the place of those before the first."""
    no = jnp.zeros(obs.shape, bool)
    return Steps(obs, jnp.zeros(obs.shape, jnp.int32), jnp.zeros(obs.shape), obs, no, no, no)


def _memoryless(init: Callable, act: Callable, greedy: Callable, update: Callable) -> Agent:
    return Agent(
        lambda key, obs: init(key, _state_of(obs)),
        lambda n: (),
        lambda memory, ended: memory,
        lambda key, state, memory, obs: (act(key, state, _state_of(obs)), memory, ()),
        lambda state, memory, obs: (greedy(state, _state_of(obs)), memory),
        update,
    )


# --- control ------------------------------------------------------------------------------------------------------


class Tables(NamedTuple):
    """A control agent's state."""

    q: Array  # [M, S, A]
    count: Array  # int32 [M, S, A]: updates
    last: Any  # the step that waits for its next action, leaves [N]; () where none does


def control(
    num_states: int,
    num_actions: int,
    backup: Backup,
    hp: Control = Control(),  # noqa: B008 (frozen)
    num_tables: int = 1,
    waits: bool = False,
    legal: Any = None,
) -> Agent:
    """ε-greedy tabular control with one-step backups.

        Q(s,a) ← Q(s,a) + α [backup - Q(s,a)]

    Args:
      backup: of `purerl.bellman`. Its `next` has q, probs (the ε-greedy policy's) and action.
      num_tables: 1, or 2: a random one is updated (online), the other one (q) evaluates; actions use their mean.
      waits: update with a step once the next action is known, as Sarsa needs.
      legal: bool `[S, A]`; illegal actions are neither selected nor used in backups. None: all are legal.
    Raises:
      ValueError: for counts that are not positive, more than two tables, or another shape of `legal`.
    """
    check_counts("control", num_states=num_states, num_actions=num_actions)
    if num_tables not in (1, 2):
        raise ValueError(f"control: num_tables is {num_tables!r}; it must be 1 or 2")
    shape = (num_states, num_actions)
    if legal is not None and jnp.shape(legal) != shape:
        raise ValueError(f"control: legal has shape {jnp.shape(legal)}; it must be {shape}")
    allowed = jnp.ones(shape, bool) if legal is None else as_array(legal)

    def values_at(q, state) -> Any:
        """Q of states `[N]`, -inf where an action is not legal."""
        return jnp.where(allowed[state], q[..., state, :], -jnp.inf)

    def learn(carry, now):
        q, count = carry
        step, next_action, coin = now
        learns, evaluates = (coin, 1 - coin) if num_tables == 2 else (0 * coin, 0 * coin)
        each = jnp.arange(step.state.shape[0])
        next_values = values_at(q, step.following)
        probs = epsilon_greedy_probs(next_values.mean(0), hp.epsilon)
        next = Next(next_values[evaluates, each], online=next_values[learns, each], probs=probs, action=next_action)
        target = backup(step.reward, hp.gamma, step.terminated, next)
        at = (learns, step.state, step.action)
        count = count.at[at].add(step.valid.astype(jnp.int32))
        error = jnp.where(step.valid, target - q[at], 0.0)
        alpha = hp.step_size * jnp.maximum(count[at], 1).astype(q.dtype) ** -hp.step_power
        return (q.at[at].add(alpha * error), count), jnp.abs(error).sum()

    def init(key, obs):
        q = jnp.full((num_tables, *shape), hp.initial, jnp.result_type(float))
        return Tables(q, jnp.zeros(q.shape, jnp.int32), _none(obs) if waits else ())

    def act(key, state, obs):
        return epsilon_greedy(key, values_at(state.q, obs).mean(0), hp.epsilon)

    def greedy(state, obs):
        return values_at(state.q, obs).mean(0).argmax(-1).astype(jnp.int32)

    def update(key, state, rollout):
        coin_key, next_key = jax.random.split(key)
        steps, last = _steps(rollout), ()
        next_action = jnp.zeros_like(steps.action)
        if waits:
            last = jax.tree.map(lambda x: x[-1], steps)
            next_action = steps.action
            steps = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y[:-1]]), state.last, steps)
            # after the end of an episode the next step is of another one: sample the action of the successor
            fresh = epsilon_greedy(next_key, values_at(state.q, steps.following).mean(0), hp.epsilon)
            next_action = jnp.where(steps.ended, fresh, next_action)
        coin = jax.random.bernoulli(coin_key, shape=steps.state.shape).astype(jnp.int32)
        (q, count), errors = jax.lax.scan(learn, (state.q, state.count), (steps, next_action, coin))
        error = errors.sum() / jnp.maximum(steps.valid.sum(), 1)
        return Tables(q, count, last), {"td_error": error}

    return _memoryless(init, act, greedy, update)


def q_learning(num_states: int, num_actions: int, hp: Control = Control(), legal: Any = None) -> Agent:  # noqa: B008 (frozen)
    """Q(s,a) ← Q(s,a) + α [r + γ max Q(s',a') - Q(s,a)].

    Reference: Watkins, 1989; Sutton & Barto, 2018, eq. 6.8.
    """
    return control(num_states, num_actions, max_backup, hp, legal=legal)


def sarsa(num_states: int, num_actions: int, hp: Control = Control(), legal: Any = None) -> Agent:  # noqa: B008 (frozen)
    """Q(s,a) ← Q(s,a) + α [r + γ Q(s',a') - Q(s,a)], with the a' that is then taken.

    Reference: Rummery & Niranjan, 1994; Sutton & Barto, 2018, eq. 6.7.
    """
    return control(num_states, num_actions, sarsa_backup, hp, waits=True, legal=legal)


def expected_sarsa(num_states: int, num_actions: int, hp: Control = Control(), legal: Any = None) -> Agent:  # noqa: B008 (frozen)
    """Q(s,a) ← Q(s,a) + α [r + γ Σ π(a'|s') Q(s',a') - Q(s,a)].

    Reference: van Seijen et al., 2009; Sutton & Barto, 2018, eq. 6.9.
    """
    return control(num_states, num_actions, expected_backup, hp, legal=legal)


def double_q_learning(num_states: int, num_actions: int, hp: Control = Control(), legal: Any = None) -> Agent:  # noqa: B008 (frozen)
    """Q₁(s,a) ← Q₁(s,a) + α [r + γ Q₂(s', argmax Q₁(s',a')) - Q₁(s,a)], or with the two exchanged.

    Reference: van Hasselt, 2010; Sutton & Barto, 2018, eq. 6.10.
    """
    return control(num_states, num_actions, double_backup, hp, num_tables=2, legal=legal)


# --- prediction ---------------------------------------------------------------------------------------------------


def _prediction(policy: Array, init: Callable, learn: Callable) -> Agent:
    """An agent that acts by a policy `[S, A]` that is given, and learns by `(state, step) -> (state, Σ |error|)`."""
    log_policy = jnp.log(policy)
    act = lambda key, state, obs: jax.random.categorical(key, log_policy[obs]).astype(jnp.int32)
    greedy = lambda state, obs: policy[obs].argmax(-1).astype(jnp.int32)

    def update(key, state, rollout):
        steps = _steps(rollout)
        state, errors = jax.lax.scan(learn, state, steps)
        return state, {"td_error": errors.sum() / jnp.maximum(steps.valid.sum(), 1)}

    return _memoryless(init, act, greedy, update)


def _check_policy(function: str, policy: Any) -> Array:
    if jnp.ndim(policy) != 2:
        raise ValueError(f"{function}: policy has shape {jnp.shape(policy)}; it must be probabilities (S, A)")
    return as_array(policy)


class Window(NamedTuple):
    """The state of `n_step_td`."""

    value: Array  # V [S]
    states: Array  # int32 [n, N]: the last steps, the newest last
    rewards: Array  # [n, N]
    filled: Array  # int32 [N]: how many of them are of this episode and not yet learned from


def n_step_td(policy: Array, hp: Prediction = Prediction()) -> Agent:  # noqa: B008 (frozen)
    """n-step TD prediction of a given policy; n = 1 is TD(0).

        V(sₜ) ← V(sₜ) + α [rₜ + … + γⁿ⁻¹ rₜ₊ₙ₋₁ + γⁿ V(sₜ₊ₙ) - V(sₜ)]

    Where an episode ends, the returns of its last n - 1 states are those up to the end.
    Args:
      policy: probabilities `[S, A]`.
    Reference: Sutton & Barto, 2018, section 7.1.
    """
    policy = _check_policy("n_step_td", policy)
    num_states, n = policy.shape[0], hp.n

    def init(key, obs):
        empty = jnp.zeros((n, *obs.shape))
        value = jnp.full(num_states, hp.initial, jnp.result_type(float))
        return Window(value, empty.astype(jnp.int32), empty, jnp.zeros(obs.shape, jnp.int32))

    def learn(window, step):
        push = lambda row, x: jnp.concatenate([row[1:], x[None]])
        states, rewards = push(window.states, step.state), push(window.rewards, step.reward)
        filled = jnp.where(step.valid, jnp.minimum(window.filled + 1, n), 0)

        def one(age, carry):  # the oldest first, each with the V updated by the others
            value, total = carry
            k = n - age  # steps from this row to the newest
            ret = (hp.gamma ** jnp.arange(n))[:, None] * jnp.roll(rewards, -age, axis=0)
            ret = jnp.where(jnp.arange(n)[:, None] < k, ret, 0.0).sum(0)
            bootstrap = jnp.where(step.terminated, 0.0, value[step.following])
            due = step.valid & (filled >= k) & ((k == n) | step.ended)
            error = jnp.where(due, ret + hp.gamma**k * bootstrap - value[states[age]], 0.0)
            return value.at[states[age]].add(hp.step_size * error), total + jnp.abs(error).sum()

        begin = (window.value, jnp.zeros((), window.value.dtype))
        # only the oldest is due while no episode ends
        value, error = jax.lax.fori_loop(0, jnp.where(step.ended.any(), n, 1), one, begin)
        filled = jnp.where(step.ended, 0, filled)
        return Window(value, states, rewards, filled), error

    return _prediction(policy, init, learn)


class Traces(NamedTuple):
    """The state of `td_lambda`."""

    value: Array  # V [S]
    trace: Array  # [N, S]: how much of an error is due to each state


def td_lambda(policy: Array, hp: Prediction = Prediction()) -> Agent:  # noqa: B008 (frozen)
    """TD(λ) prediction of a given policy with eligibility traces.

        e ← γλe + onehot(s),   V ← V + α [r + γ V(s') - V(s)] e

    Args:
      policy: probabilities `[S, A]`.
    Reference: Sutton, 1988; Sutton & Barto, 2018, section 12.2.
    """
    policy = _check_policy("td_lambda", policy)
    num_states = policy.shape[0]

    def init(key, obs):
        value = jnp.full(num_states, hp.initial, jnp.result_type(float))
        return Traces(value, jnp.zeros((*obs.shape, num_states)))

    def learn(carry, step):
        value, trace = carry
        trace = hp.gamma * hp.td_lambda * trace
        trace = trace.at[jnp.arange(len(trace)), step.state].add(1.0)
        bootstrap = jnp.where(step.terminated, 0.0, value[step.following])
        error = jnp.where(step.valid, step.reward + hp.gamma * bootstrap - value[step.state], 0.0)
        value = value + hp.step_size * (error @ trace)
        return Traces(value, jnp.where(step.ended[:, None], 0.0, trace)), jnp.abs(error).sum()

    return _prediction(policy, init, learn)
