"""The training of a neural network as an environment."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jax.core import Tracer

from purerl.arguments import check_counts, check_functions, check_range
from purerl.core import Array, Key, Transition
from purerl.envs.training_control import terms
from purerl.envs.training_control.actions import Actions, scale_rate
from purerl.envs.training_control.data import Data, Draw, pixels
from purerl.envs.training_control.models import (
    Model,
    Objective,
    accuracy,
    check_objective,
    check_outputs,
    classification,
    r_squared,
    regression,
)
from purerl.envs.training_control.observations import BOUND, Statistics, relative, with_settings
from purerl.envs.training_control.optimizers import InnerOptimizer, Settings, as_arrays, first_order
from purerl.gradients import permutation
from purerl.rewards import Term

LEAST = 1e-8  # of a loss, before its logarithm
TINY = 1e-12  # of what is divided by
ONCE = {"xla_backend_optimization_level": 0}  # of a program that runs once: it is compiled in a third of the time

# (key, updates so far, K, num_train, batch_size) -> indices into the training part, int32 [K, batch_size]
Minibatches = Callable[[Key, Array, int, int, int], Array]


def shuffled(key: Key, first: Array, num_updates: int, num_train: int, batch_size: int) -> Array:
    """Minibatches of passes over the training part, each in a new order; what is left of a pass is not used.

    Args:
      key: of the whole training, whose minibatches therefore do not depend on the settings.
      first: updates so far, int32, a multiple of num_updates.  num_updates: K.
    Returns:
      Indices, int32 `[K, batch_size]`.
    """
    in_pass = num_train // batch_size
    most_passes = (in_pass - math.gcd(num_updates, in_pass) + num_updates - 1) // in_pass + 1
    order = lambda i: permutation(jax.random.fold_in(key, i), num_train)[: in_pass * batch_size]
    passes = jax.vmap(order)(first // in_pass + jnp.arange(most_passes))
    return jax.lax.dynamic_slice_in_dim(passes.reshape(-1, batch_size), first % in_pass, num_updates)


def with_replacement(key: Key, first: Array, num_updates: int, num_train: int, batch_size: int) -> Array:
    """Minibatches of independent, uniformly drawn examples, int32 `[U, B]`; arguments as of `shuffled`."""
    return jax.random.randint(jax.random.fold_in(key, first), (num_updates, batch_size), 0, num_train)


class Parts(NamedTuple):
    """Examples of an episode by their indices in the data, int32 `[num]`."""

    train: Array
    validation: Array
    test: Array


# (key, number of examples, numbers of the three parts) -> Parts
Partition = Callable[[Key, int, tuple[int, int, int]], Parts]


def drawn(key: Key, num_examples: int, sizes: tuple[int, int, int]) -> Parts:
    """All three parts are drawn: every episode has others."""
    ends = np.cumsum(sizes)
    return Parts(*jnp.split(permutation(key, num_examples)[: ends[-1]], ends[:-1]))


def last_for_test(key: Key, num_examples: int, sizes: tuple[int, int, int]) -> Parts:
    """The last examples are the test part of every episode; the other parts are drawn from the examples before them.

    No episode trains or validates on them, so that they are unseen after any number of episodes. Data in the order of
    their classes must be shuffled before.

    >>> parts = last_for_test(jax.random.key(0), 10, (4, 2, 3))
    >>> parts.test.tolist(), int(jnp.concatenate(parts[:2]).max()) < 7
    ([7, 8, 9], True)
    """
    num_train, num_validation, num_test = sizes
    first = num_examples - num_test
    order = permutation(key, first)
    return Parts(order[:num_train], order[num_train : num_train + num_validation], jnp.arange(first, num_examples))


@struct.dataclass
class TrainingControlParams:
    """All of it is data: a change compiles nothing.

    settings: at the start of an episode.  spread: the log learning rate starts uniformly within ± this, in nats.
    ceiling: of the log validation loss above that at the start, in nats; a network that diverged has it.
    max_steps_in_episode: the budget, in steps of K updates.
    """

    settings: Settings
    spread: float = 0.0
    ceiling: float = 5.0
    max_steps_in_episode: int = 50


class TrainingControlState(NamedTuple):
    """A training under way."""

    params: Any
    opt_state: Any
    data: Any  # Data, where every episode draws its own; otherwise ()
    parts: Parts
    order_key: Array  # a key [], of minibatches
    noise_key: Array  # a key [], of dropout
    time: Array  # int32: steps of K updates
    settings: Settings
    statistics: Statistics


class TrainingControl(Environment):
    """Train a neural network, K updates in a step, with settings that the agent changes at every step.

    A reset draws training, validation and test parts from the data, initial parameters, and the order of minibatches;
    none of them depends on actions, so two agents with the same key train the same network on the same minibatches. A
    step applies the action to the settings, makes K updates and computes the losses. The test part is only in `info`.

    The episode terminates where the budget ends: it is part of the task, its rest is observed, and no value follows it;
    rewards with γ = 1 need that. It also terminates where a loss, a gradient or a parameter is not finite: the network
    diverged. Its parameters remain those before the step, its loss is the ceiling of `TrainingControlParams` and its
    scores are 0; observations and rewards are finite, and no other network is affected.

    `info` has `log_loss` and `log_loss_before` (validation), `train_loss`, `train_score`, `validation_loss`, `score`,
    `test_loss`, `test_score`, `diverged`, `cost` (the share of the budget that the step used), `update` (updates so
    far, with this step's), and the settings by name. Training loss and score are of as many examples as the validation
    part has. What is not kept of it is not computed.

    Args:
      model: an inner model, `with_head(torso, num_outputs)`, or a network such as a flax module; see `Model`.
      data: `Data`, or a function `key -> Data` that draws a data set for each episode, such as `two_spirals()`.
      num_train, num_validation, num_test: sizes of the parts.  updates_per_step: K.  batch_size: of a minibatch.
      budget: the default budget, in steps.
      actions: what the agent changes, see `training_control.actions`; a learning rate × {½, 1, 2} by default.
      objective: `classification` or `regression`, or a loss and a score of your own.
      observe: a function of `Statistics`, each value clipped to ±10; None: `relative` if actions change the learning
        rate alone, otherwise `with_settings`.
      reward: a term, a function of a transition of one step, see `training_control.terms`.
      optimizer: of the inner training: `first_order()`, or `of_optax(…)`.
      minibatches: `shuffled` or `with_replacement`.
      partition: `drawn`, or `last_for_test`, with the same test part in all episodes.
      finite_horizon: False: the end of the budget truncates the episode, and agents bootstrap from the last
        observation; for budgets that stand for longer ones.
    Raises:
      ValueError: for a count that is not positive, such as a budget of 0; parts larger than the data; data of unequal
        lengths or with values that are not finite; a model whose outputs do not fit the data; an objective of your
        own that does not give a loss for each example, and a score; a loss that is not finite and positive at the
        start.

    >>> from purerl import networks
    >>> from purerl.envs.training_control import data, models
    >>> model = models.with_head(networks.MLP((8,)), 2)
    >>> env = TrainingControl(model, data.two_spirals(40), 20, 10, 10, updates_per_step=2, batch_size=10)
    >>> obs, state = env.reset(jax.random.key(0), env.default_params)
    >>> obs, state, reward, terminated, info = env.step_env(jax.random.key(1), state, 2, env.default_params)
    >>> obs.shape, round(info["learning_rate"].item(), 2), info["update"].item()
    ((10,), 0.02, 2)
    """

    name: str = "TrainingControl"

    def __init__(
        self,
        model: Any,
        data: Data | Draw,
        num_train: int,
        num_validation: int,
        num_test: int,
        *,
        updates_per_step: int = 10,
        batch_size: int = 32,
        budget: int = 50,
        actions: Actions | None = None,
        objective: Objective = classification,
        observe: Callable[[Statistics], Any] | None = None,
        reward: Term = terms.fall_of_log_loss,
        optimizer: InnerOptimizer | None = None,
        minibatches: Minibatches = shuffled,
        partition: Partition = drawn,
        finite_horizon: bool = True,
    ):
        me = "TrainingControl"
        check_counts(me, num_train=num_train, num_validation=num_validation, num_test=num_test)
        check_counts(me, updates_per_step=updates_per_step, batch_size=batch_size, budget=budget)
        if batch_size > num_train:
            raise ValueError(f"{me}: batch_size is {batch_size}; it must be at most num_train, {num_train}")
        self._model = model if isinstance(model, Model) else _as_model(model)
        self.actions = scale_rate() if actions is None else actions
        if "dropout" in self.actions.controls and self._model.train is None:
            raise ValueError(f"{me}: the actions change dropout, which the model does not have (Model.train is None)")
        only_rate = set(self.actions.controls) <= {"learning_rate", "stop"}
        self._observe_of = (relative if only_rate else with_settings) if observe is None else observe
        check_functions(me, reward=reward, observe=self._observe_of, minibatches=minibatches, partition=partition)
        self._sizes, self._updates, self._batch_size = (
            (num_train, num_validation, num_test),
            updates_per_step,
            batch_size,
        )
        self._budget, self._objective, self._reward, self._minibatches = budget, objective, reward, minibatches
        self._partition = partition
        self._optimizer, self._finite_horizon = first_order() if optimizer is None else optimizer, finite_horizon
        self._data = data if callable(data) else checked(data)
        self._check_start()

    def _check_start(self):
        """Raise a ValueError for data or a model that cannot be trained, on one draw of them."""
        seed = np.zeros((), np.uint32)
        of_seed = lambda function: lambda seed: function(jax.random.key(seed))
        data = jax.eval_shape(of_seed(self._data), seed) if callable(self._data) else self._data
        if not isinstance(data, Data):
            raise ValueError(f"TrainingControl: data gives {type(data).__name__}; it must give Data(x, y)")
        if sum(self._sizes) > len(data.y):
            raise ValueError(
                f"TrainingControl: num_train + num_validation + num_test is {' + '.join(map(str, self._sizes))}; "
                f"the data have {len(data.y)} examples"
            )

        def outputs(key):
            x = jnp.zeros((self._batch_size, *data.x.shape[1:]), data.x.dtype)
            return self._model.apply(self._model.init(key, pixels(x)), pixels(x))

        classes = jnp.issubdtype(data.y.dtype, jnp.integer) and not callable(self._data)
        y = jax.ShapeDtypeStruct((self._batch_size, *data.y.shape[1:]), data.y.dtype)
        shaped = jax.eval_shape(of_seed(outputs), seed)
        usual = self._objective in (classification, regression)
        if self._objective.score in (accuracy, r_squared):  # of other outputs they would be other numbers
            hint = "" if usual else ", which the score needs; other outputs need an Objective(loss, score) of your own"
            check_outputs(shaped, y, int(np.max(data.y)) + 1 if classes else None, hint)
        if not usual:
            check_objective(self._objective, shaped, y)
        begin = of_seed(lambda key: self._begin(key, self.default_params)[0])
        seed = jnp.asarray(seed)  # a tracer within another jit, where the compiler has no options of its own
        loss = jax.jit(begin, compiler_options=None if isinstance(seed, Tracer) else ONCE)(seed)
        if not isinstance(loss, Tracer) and not 0 < loss < math.inf:
            raise ValueError(f"TrainingControl: the inner loss is {loss} at the start; it must be finite and positive, "
                             "since its logarithm is used")  # fmt: skip

    @property
    def num_actions(self) -> int:
        space = self.actions.space
        return getattr(space, "n", math.prod(getattr(space, "shape", ())))

    @property
    def updates_per_step(self) -> int:
        """K, inner updates in a step."""
        return self._updates

    @property
    def objective(self) -> Objective:
        """What the model is trained for."""
        return self._objective

    @property
    def default_params(self) -> TrainingControlParams:
        return TrainingControlParams(Settings(), max_steps_in_episode=self._budget)

    def _begin(self, key, params):
        """The validation loss before any update, and the state."""
        check_range("TrainingControl", 1, math.inf, max_steps_in_episode=params.max_steps_in_episode)
        data_key, parts_key, model_key, order_key, noise_key, rate_key = jax.random.split(key, 6)
        drawn = self._data(data_key) if callable(self._data) else ()
        data = _as_arrays(drawn or self._data)
        parts = self._partition(parts_key, len(data.y), self._sizes)
        inner = self._model.init(model_key, pixels(data.x[:1]))
        opt_state, settings = self._optimizer.init(inner), as_arrays(params.settings)
        shift = params.spread * jax.random.uniform(rate_key, minval=-1.0)
        settings = settings._replace(learning_rate=settings.learning_rate * jnp.exp(shift))
        train, validation, _, _ = self._losses(inner, opt_state, data, parts)
        # a loss that is not finite ends the episode at the first step
        log_train, log_validation = (jnp.where(jnp.isfinite(x), _log(x), 0.0) for x in (train, validation))
        zero, one = jnp.zeros_like(log_train), jnp.ones_like(log_train)
        losses = log_train, log_train, log_validation, log_validation, log_validation
        statistics = Statistics(one, *losses, one, one, zero, one, zero, settings)
        keys, time = (order_key, noise_key), jnp.zeros((), jnp.int32)
        return validation, TrainingControlState(inner, opt_state, drawn, parts, *keys, time, settings, statistics)

    def _losses(self, inner, opt_state, data, parts):
        """Mean losses of training and validation parts, and their scores.

        Of the training part as many examples as the validation part has are used; both are one batch.
        """
        some = parts.train[: self._sizes[1]]
        losses, outputs, y = self._judge(inner, opt_state, data, jnp.concatenate([some, parts.validation]))
        cut = len(some)
        scores = self._objective.score(outputs[:cut], y[:cut]), self._objective.score(outputs[cut:], y[cut:])
        return losses[:cut].mean(), losses[cut:].mean(), *scores

    def _judge(self, inner, opt_state, data, index):
        x, y = _examples(data, index)
        outputs = self._model.apply(self._optimizer.evaluated(inner, opt_state), x)
        return self._objective.loss(outputs, y, 0.0), outputs, y

    def reset_env(self, key, params):
        _, state = self._begin(key, params)
        return self._observe(state.statistics), state

    def step_env(self, key, state, action, params):
        del key
        return self.advance(state, self.actions.apply(state.settings, action), params, action)

    def advance(self, state: TrainingControlState, settings: Settings, params: TrainingControlParams, action: Any = ()):
        """A step with given settings instead of those of an action; results are those of `step_env`."""
        settings, before = as_arrays(settings), state.statistics
        data = _as_arrays(state.data or self._data)
        trained, opt_state, train_losses, norms, lengths = self._stretch(state, data, settings)
        moved = optax.tree.norm(jax.tree.map(jnp.subtract, trained, state.params))
        finite = jnp.isfinite(jnp.stack([train_losses.sum(), norms.sum(), moved, optax.tree.norm(trained)])).all()
        trained, opt_state = _where(settings.stop, (state.params, state.opt_state), (trained, opt_state))
        train, validation, train_score, score = self._losses(trained, opt_state, data, state.parts)
        finite = (finite | settings.stop) & jnp.isfinite(train) & jnp.isfinite(validation)
        diverged = ~finite
        trained, opt_state = _where(diverged, (state.params, state.opt_state), (trained, opt_state))

        ceiling = before.log_validation_start + params.ceiling
        log_train, log_validation = (
            jnp.where(diverged, ceiling, jnp.minimum(_log(x), ceiling)) for x in (train, validation)
        )
        known = lambda x, otherwise: jnp.where(diverged | settings.stop, otherwise, x)
        mean, time = norms.mean(), state.time + 1
        gradient_norm = known(mean, before.gradient_norm)
        statistics = Statistics(
            left=jnp.maximum(1 - time / params.max_steps_in_episode, 0.0),
            log_train=log_train,
            log_train_before=before.log_train,
            log_validation=log_validation,
            log_validation_before=before.log_validation,
            log_validation_start=before.log_validation_start,
            gradient_norm=gradient_norm,
            gradient_norm_before=jnp.where(state.time == 0, gradient_norm, before.gradient_norm),
            gradient_spread=known(norms.std() / jnp.maximum(mean, TINY), 0.0),
            update_ratio=known(moved / jnp.maximum(optax.tree.norm(state.params), TINY), 1.0),
            straightness=known(moved / jnp.maximum(lengths.sum(), TINY), 0.0),
            settings=settings,
        )
        state = state._replace(
            params=trained, opt_state=opt_state, time=time, settings=settings, statistics=statistics
        )  # fmt: skip

        test, outputs, y = self._judge(trained, opt_state, data, state.parts.test)
        bad, test = diverged | ~jnp.isfinite(test.mean()), test.mean()
        info = {
            "log_loss_before": before.log_validation,
            "log_loss": log_validation,
            "train_loss": jnp.exp(log_train),
            "train_score": jnp.where(diverged, 0.0, train_score),
            "validation_loss": jnp.exp(log_validation),
            "score": jnp.where(diverged, 0.0, score),
            "test_loss": jnp.where(bad, jnp.exp(ceiling), jnp.minimum(test, jnp.exp(ceiling))),
            "test_score": jnp.where(bad, 0.0, self._objective.score(outputs, y)),
            "diverged": diverged,
            "cost": jnp.where(settings.stop, 0.0, 1 / params.max_steps_in_episode),
            "update": time * self._updates,
            **settings._asdict(),
        }
        terminated = diverged | settings.stop
        if self._finite_horizon:
            terminated = terminated | (time >= params.max_steps_in_episode)
        obs, ends = self._observe(statistics), (terminated, self.is_truncated(state, params))
        step = Transition(self._observe(before), action, jnp.zeros(()), obs, *ends, jnp.ones((), bool), (), info)
        return obs, state, jnp.asarray(self._reward(step), jnp.float32), terminated, info

    def _stretch(self, state, data, settings):
        """K updates: parameters, optimiser's state, and of each update its loss, ‖g‖ and ‖Δθ‖."""
        renew = settings.optimizer != state.settings.optimizer
        opt_state = _where(renew, self._optimizer.init(state.params), state.opt_state)
        first = state.time * self._updates
        index = self._minibatches(state.order_key, first, self._updates, self._sizes[0], self._batch_size)
        index = state.parts.train[index]

        def loss(params, key, x, y):
            train = self._model.train
            outputs = self._model.apply(params, x) if train is None else train(key, params, x, settings.dropout)
            return self._objective.loss(outputs, y, settings.label_smoothing).mean()

        def update(carry, now):
            params, opt_state = carry
            count, rows = now
            key = jax.random.fold_in(state.noise_key, count)
            value, grads = jax.value_and_grad(loss)(params, key, *_examples(data, rows))
            change, opt_state = self._optimizer.update(grads, opt_state, params, settings)
            params = jax.tree.map(jnp.add, params, change)
            return (params, opt_state), (value, optax.tree.norm(grads), optax.tree.norm(change))

        counts = first + jnp.arange(self._updates)
        (params, opt_state), each = jax.lax.scan(update, (state.params, opt_state), (counts, index))
        return params, opt_state, *each

    def _observe(self, statistics):
        clip = lambda x: jnp.clip(jnp.nan_to_num(jnp.asarray(x, jnp.float32)), -BOUND, BOUND)
        return jax.tree.map(clip, self._observe_of(statistics))

    def is_truncated(self, state, params):
        if self._finite_horizon:
            return jnp.zeros((), bool)
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        return self.actions.space

    def observation_space(self, params):
        scalar = jax.ShapeDtypeStruct((), jnp.float32)
        settings = jax.eval_shape(as_arrays, Settings())
        filled = Statistics(**dict.fromkeys(Statistics._fields[:-1], scalar), settings=settings)
        return _space_of(jax.eval_shape(self._observe, filled))


def _space_of(obs: Any) -> spaces.Space:
    """The Box of observations of these shapes, or the Dict of such."""
    if isinstance(obs, dict):
        return spaces.Dict({name: _space_of(x) for name, x in obs.items()})
    return spaces.Box(-BOUND, BOUND, obs.shape, jnp.float32)


def _as_model(network: Any) -> Model:
    """A network, such as a flax module, as an inner model without dropout."""
    for part in ("init", "apply"):
        if not callable(getattr(network, part, None)):
            raise ValueError(f"TrainingControl: model is {network!r:.80}; it must have the functions init and apply")
    return Model(network.init, network.apply)


def checked(data: Any) -> Data:
    """Data of NumPy arrays; raises a ValueError unless they are as many and finite."""
    if not isinstance(data, Data):
        raise ValueError(f"TrainingControl: data is {data!r:.80}; it must be Data(x, y), or a function of a key to it")
    try:
        x, y = np.asarray(data.x), np.asarray(data.y)
    except ValueError:
        raise ValueError("TrainingControl: data.x or data.y has rows of unequal lengths; they must be arrays") from None
    if x.dtype.kind not in "fiub" or y.dtype.kind not in "fiub":
        raise ValueError(f"TrainingControl: data.x are {x.dtype} and data.y {y.dtype}; they must be real numbers")
    if x.ndim < 2 or y.ndim < 1 or len(x) != len(y) or not len(x):
        raise ValueError(
            f"TrainingControl: data.x has shape {x.shape} and data.y {y.shape}; they must be [n, ...] and [n], n ≥ 1"
        )
    y = y.astype(np.int32) if y.dtype.kind == "b" else y  # two classes
    with np.errstate(over="ignore"):
        x = x if x.dtype == np.uint8 else x.astype(np.float32)
        y = y if y.dtype.kind in "iu" else y.astype(np.float32)
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ValueError("TrainingControl: data have values that are not finite in float32")
    if y.dtype.kind in "iu":
        if y.ndim != 1 or y.min() < 0 or y.max() >= 2**31:
            raise ValueError(f"TrainingControl: data.y are integers {y.shape}, from {y.min()} to {y.max()}; classes "
                             "are [n], from 0")  # fmt: skip
        y = y.astype(np.int32)
    return Data(x, y)


def _as_arrays(data: Data) -> Data:
    return Data(jnp.asarray(data.x), jnp.asarray(data.y))


def _examples(data: Data, index: Array) -> tuple[Array, Array]:
    """x and y at indices `[...]`, which are within the data."""
    rows = lambda x: x.at[index].get(mode="promise_in_bounds")
    return pixels(rows(data.x)), rows(data.y)


def _log(loss: Array) -> Array:
    return jnp.log(jnp.maximum(loss, LEAST))


def _where(condition: Array, then: Any, otherwise: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), then, otherwise)
