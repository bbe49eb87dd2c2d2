"""Agents of whole sequences: gradient steps against NumPy loops and exact gradients, masks, buffers, learning."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo
from enumerated import ALL, END, LENGTH, MASK, PAIRS, PREFIXES, STATE, close, exact, in_float64, tables

import purerl
from purerl import distributions, normalize
from purerl.agents.parts import sequences
from purerl.core import Rollout, Transition
from purerl.testing.probes import Probe
from purerl.text import objectives

NAN = np.nan
POLICY = distributions.categorical(3)
AGENTS = {
    "rloo": (purerl.rloo, purerl.RLOO),
    "grpo": (purerl.grpo, purerl.GRPO),
    "sequence_reinforce": (purerl.sequence_reinforce, purerl.SequenceREINFORCE),
    "sequence_ppo": (purerl.sequence_ppo, purerl.SequencePPO),
}
ENDED = (ALL == END).any(-1)  # the others are cut
VALUES = np.random.default_rng(11).normal(size=len(PREFIXES))


class Table:
    """Logits and a value for each prefix; an observation is the number of its prefix, float `[1]`."""

    def __init__(self, logits=None):
        self.logits = logits

    def init(self, key, obs):
        logits = tables()[0] if self.logits is None else self.logits
        return {"pi": jnp.asarray(logits, obs.dtype), "value": jnp.asarray(VALUES, obs.dtype)}

    def apply(self, params, obs):
        row = obs[..., 0].astype(jnp.int32)
        return params["pi"][row], params["value"][row]


def plain(max_grad_norm):
    """Gradient descent: with a learning rate of 1 the parameters change by minus the gradient."""
    return optax.scale(1.0)


def agent_of(name, hp=None, network=None, optimizer=plain, **parts):
    make, config = AGENTS[name]
    hp = dict(learning_rate=1.0, num_epochs=1, num_minibatches=1) | (hp or {})
    not_of_all = {"num_epochs", "num_minibatches", "group_size"} - {field.name for field in dataclasses.fields(config)}
    hp = config(**{key: value for key, value in hp.items() if key not in not_of_all})
    return make(network or Table(), POLICY, hp, optimizer=optimizer, **parts)


def log_soft(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def block(chosen, reward, behaviour=None):
    """Some of the 81 sequences as a block: their rewards at their last steps, log π under a table of logits."""
    chosen = np.asarray(chosen)
    behaviour = tables()[0] if behaviour is None else behaviour
    obs, action, valid = STATE[chosen], ALL[chosen], MASK[chosen]
    last = valid & (np.cumsum(valid, -1) == valid.sum(-1, keepdims=True))
    rewards = np.where(last, np.asarray(reward)[..., None], np.where(valid, 0.0, NAN))
    ends = last & ENDED[chosen][..., None], last & ~ENDED[chosen][..., None]
    obs = obs[..., None].astype(float)
    next_obs = np.concatenate([obs[:, 1:], np.full_like(obs[:, :1], 3.0)], 1)  # a cut sequence ends in prefix 3
    log_prob = log_soft(behaviour)[STATE[chosen], action]
    swap = lambda x: np.swapaxes(x, 0, 1)
    return Rollout(Transition(*map(swap, (obs, action, rewards, next_obs, *ends, valid, log_prob))), ())


def one_update(agent, rollout):
    """Change of the parameters by an update, the new state and the metrics."""
    key, rollout = jax.random.key(0), jax.tree.map(jnp.asarray, rollout)
    start = agent.init(key, rollout.transitions.obs[0])
    state, metrics = agent.update(key, start, rollout)
    return jax.tree.map(jnp.subtract, state.params, start.params), state, metrics


def updated(*args, **kwargs):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(lambda: one_update(*args, **kwargs))())


# --- one gradient step against a loop ---------------------------------------------------------------------------------

# two groups of four: sequences of every length, two of them cut, a reward that cannot be scored
CHOSEN = np.array([int(np.flatnonzero((ALL[:, : len(x)] == x).all(-1))[0]) for x in (
    [2], [0, 1, 2], [1, 1, 0, 1], [0, 2], [1, 2], [0, 0, 0, 2], [1, 0, 1, 0], [1, 1, 2],
)])  # fmt: skip
REWARD = np.array([1.0, 0.0, 0.5, -1.0, 2.0, NAN, 0.25, 0.5])
N = len(CHOSEN)
OTHER = 0.6 * tables()[0] + 0.3 * tables()[1]  # what acted, where it was not the policy itself
LENGTHS = MASK[CHOSEN].sum(-1)


def steps():
    """(sequence, step, prefix, token) of every step that counts."""
    for i, y in enumerate(CHOSEN):
        for t in range(LENGTHS[i]):
            yield i, t, STATE[y, t], ALL[y, t]


def scored(rewards):
    return [r for r in rewards if not math.isnan(r)]


def mean_of(rewards):
    return sum(rewards) / len(rewards)


def deviation(rewards):
    return math.sqrt(sum((r - mean_of(rewards)) ** 2 for r in rewards) / (len(rewards) - 1))


def group_advantages(reward, kind):
    """Advantages of groups of four, by a loop; 0 for a reward that cannot be scored."""
    out = np.zeros(N)
    for i, r in enumerate(reward):
        group = reward[i // 4 * 4 : i // 4 * 4 + 4]
        if math.isnan(r):
            continue
        if kind == "rloo":
            out[i] = r - mean_of(scored([x for j, x in enumerate(group) if j != i % 4]))
        else:
            scale = {"group": deviation(scored(group)), "batch": deviation(scored(reward)), "none": 1 - 1e-4}[kind]
            out[i] = (r - mean_of(scored(group))) / (scale + 1e-4)
    return out


def tables_of(behaviour):
    """log π, log ρ and the log-ratio to the reference, `[N, T]` each."""
    policy, acted, reference = (log_soft(x)[STATE[CHOSEN], ALL[CHOSEN]] for x in (tables()[0], behaviour, tables()[1]))
    return policy, policy - acted, policy - reference, acted - reference


def estimate(name, x):
    return {"k1": x, "k2": x**2 / 2, "k3": math.exp(-x) - 1 + x}[name]


def slope(name, x):
    return {"k1": 1.0, "k2": x, "k3": 1 - math.exp(-x)}[name]


def ascent(weight, entropy_cost):
    """Σ w ∇log π(token) + c ∇ mean entropy, for weights `[N, T]`: `[40, 3]`."""
    log_p = log_soft(tables()[0])
    p, out = np.exp(log_p), np.zeros_like(log_p)
    for i, t, s, a in steps():
        out[s] -= weight[i, t] * p[s]
        out[s, a] += weight[i, t]
        entropy = -(p[s] * log_p[s]).sum()
        out[s] -= entropy_cost / LENGTHS.sum() * p[s] * (log_p[s] + entropy)
    return out


def surrogate_slope(rho, advantage, low, high):
    """d/d log ρ of min(ρA, clip(ρ, 1 - low, 1 + high) A)."""
    held = rho > 1 + high if advantage > 0 else rho < 1 - low
    return 0.0 if held else rho * advantage


def share(normaliser, i):
    """What a step of sequence i weighs in the mean."""
    return {
        "sequence": 1 / N,
        "grpo": 1 / (N * LENGTHS[i]),
        "bnpo": 1 / LENGTHS.sum(),
        "dapo": 1 / LENGTHS.sum(),
        "dr_grpo": 1 / (N * LENGTH),
    }[normaliser]


def penalized(behaviour, kl, cost):
    """Rewards minus β Σ KL of what acted."""
    x = tables_of(behaviour)[3]
    total = np.zeros(N)
    for i, t, _, _ in steps():
        total[i] += estimate(kl, x[i, t])
    return REWARD - cost * total


KL = dict(kl_cost=0.3, entropy_cost=0.05)
REFERENCE = {"pi": tables()[1], "value": VALUES}


def judge(name, hp, weights_of, behaviour=OTHER, **parts):
    """The change by one update against the loop's; weights_of(reward, log ρ) gives `[N, T]` without the KL's."""
    hp = dict(entropy_cost=0.05) | hp
    if "kl_cost" in hp:
        parts["reference"] = REFERENCE
    _, log_ratio, x, _ = tables_of(behaviour)
    reward = penalized(behaviour, hp["kl"], 0.3) if hp.get("kl_in") == "reward" else REWARD
    weight = weights_of(reward, log_ratio)
    if hp.get("kl_in") == "loss":
        normaliser = {objectives.grpo: "grpo", objectives.dapo: "dapo"}.get(parts.get("normaliser"), "sequence")
        for i, t, _, _ in steps():
            weight[i, t] -= 0.3 * share(normaliser, i) * slope(hp["kl"], x[i, t])
    change, state, metrics = updated(agent_of(name, hp, **parts), block(CHOSEN, REWARD, behaviour))
    close(change["pi"], ascent(weight, 0.05))
    assert metrics["unscorable"] == 1
    furthest = max(abs(log_ratio[i, t]) for i, t, _, _ in steps())
    np.testing.assert_allclose(metrics["max_log_ratio"], furthest, rtol=1e-6, atol=1e-12)
    return change, state, metrics


def rloo_weights(reward, log_ratio):
    advantage, out = group_advantages(reward, "rloo"), np.zeros((N, LENGTH))
    for i, t, _, _ in steps():
        rho = math.exp(log_ratio[i, : LENGTHS[i]].sum())
        out[i, t] = surrogate_slope(rho, advantage[i], 0.2, 0.2) / N
    return out


@pytest.mark.parametrize("case", ["on policy", "off policy", "k1 in the reward", "k3 in the loss"])
def test_rloo_is_its_equation(case):
    kl = {"k1 in the reward": dict(kl="k1", kl_in="reward"), "k3 in the loss": dict(kl="k3", kl_in="loss")}.get(case)
    hp = dict(group_size=4) | (KL | kl if kl else {})
    behaviour = tables()[0] if case == "on policy" else OTHER
    _, _, metrics = judge("rloo", hp, rloo_weights, behaviour)
    clipped = [abs(math.exp(x) - 1) > 0.2 for x in np.where(MASK[CHOSEN], tables_of(behaviour)[1], 0.0).sum(-1)]
    assert metrics["clip_fraction"] == mean_of(clipped) and (any(clipped) != (case == "on policy"))
    assert metrics["zero_variance"] == 0 and math.isclose(metrics["length"], mean_of(LENGTHS))


def grpo_weights(normaliser, ratio, scale, low=0.2, high=0.28):
    def of(reward, log_ratio):
        advantage, out = group_advantages(reward, scale), np.zeros((N, LENGTH))
        for i, t, _, _ in steps():
            rho = math.exp(log_ratio[i, : LENGTHS[i]].mean() if ratio == "gspo" else log_ratio[i, t])
            weight = min(rho, high) * advantage[i] if ratio == "cispo" else None
            weight = surrogate_slope(rho, advantage[i], low, high) if weight is None else weight
            out[i, t] = weight * share(normaliser, i)
        return out

    return of


@pytest.mark.parametrize(
    ("normaliser", "ratio", "scale", "hp"),
    [
        ("grpo", "token", "group", {}),
        ("grpo", "gspo", "group", {}),
        ("dr_grpo", "token", "none", dict(clip_low=0.3, clip_high=0.1)),
        ("bnpo", "cispo", "batch", dict(clip_high=0.9)),
        ("grpo", "token", "group", dict(**KL, kl="k3", kl_in="loss")),
        ("dapo", "cispo", "none", dict(**KL, kl="k2", kl_in="loss")),
        ("dapo", "gspo", "batch", dict(**KL, kl="k3", kl_in="reward")),
    ],
)
def test_grpo_is_its_equation(normaliser, ratio, scale, hp):
    parts = dict(
        normaliser=sequences.NORMALISERS[normaliser], ratio=sequences.RATIOS[ratio], scale=objectives.SCALES[scale]
    )
    clips = {"token": (0.2, 0.28), "gspo": (3e-4, 4e-4), "cispo": (0.0, 5.0)}[ratio]
    clips = hp.get("clip_low", clips[0]), hp.get("clip_high", clips[1])
    _, _, metrics = judge("grpo", dict(group_size=4) | hp, grpo_weights(normaliser, ratio, scale, *clips), **parts)
    outside = 0
    for i, t, _, _ in steps():
        x = tables_of(OTHER)[1][i]
        rho = math.exp(x[: LENGTHS[i]].mean() if ratio == "gspo" else x[t])
        outside += rho > clips[1] if ratio == "cispo" else not 1 - clips[0] <= rho <= 1 + clips[1]
    np.testing.assert_allclose(metrics["clip_fraction"], outside / LENGTHS.sum(), rtol=1e-6)


GOLDEN = {
    "grpo": ("group", (0.163164, -0.048949, -0.048949, 0.010878)),
    "bnpo": ("group", (0.081582, -0.048949, -0.048949, 0.016316)),
    "dapo": ("group", (0.081582, -0.048949, -0.048949, 0.016316)),
    "dr_grpo": ("none", (0.019531, -0.011719, -0.011719, 0.003906)),
}


class Single:
    """A parameter for each step of each sequence: one of two actions with log p = x - log(1 + eˣ), half of x at 0."""

    init = staticmethod(lambda key, obs: jnp.zeros(32))
    apply = staticmethod(
        lambda x, obs: (jnp.stack([x[obs[..., 0].astype(int)], jnp.zeros(obs.shape[0])], -1), jnp.zeros(obs.shape[0]))
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_the_weight_of_each_token_in_an_update(name):
    """Rewards 1, 0, 0, ½ of sequences with 2, 4, 4 and 6 tokens of 8 at most."""
    scale, coefficients = GOLDEN[name]
    hp = purerl.GRPO(learning_rate=1.0, group_size=4)
    agent = purerl.grpo(
        Single, distributions.categorical(2), hp, sequences.NORMALISERS[name], scale=objectives.SCALES[scale],
        optimizer=plain,
    )  # fmt: skip
    lengths, time = np.array([2, 4, 4, 6]), np.arange(8)[:, None]
    obs = (np.arange(4) * 8 + time)[..., None].astype(np.float32)
    last, zero = time == lengths - 1, np.zeros((8, 4), np.int32)
    reward = np.where(last, np.float32([1, 0, 0, 0.5]), np.float32(0))
    half = np.full((8, 4), np.float32(-math.log(2)))
    tr = Transition(obs, zero, reward, obs, last, last & False, time < lengths, half)
    change, _, metrics = jax.jit(partial(one_update, agent))(Rollout(tr, ()))
    expected = np.where(time < lengths, np.array(coefficients), 0.0) / 2  # d log p / dx
    np.testing.assert_allclose(change.reshape(4, 8).T, expected, atol=3e-7)
    assert metrics["clip_fraction"] == 0 and metrics["max_log_ratio"] < 1e-6


def reinforce_weights(advantage):
    return lambda reward, log_ratio: np.where(MASK[CHOSEN], np.array([advantage(reward)]).T, 0.0) / N


def no_nan(x):
    return np.where(np.isnan(x), 0.0, x)


def test_reinforce_is_its_equation():
    hp = dict(baseline="none", **KL, kl="k2", kl_in="reward")
    judge("sequence_reinforce", hp, reinforce_weights(no_nan))
    hp = dict(baseline="moving-average", **KL, kl="k1", kl_in="loss")
    _, state, _ = judge("sequence_reinforce", hp, reinforce_weights(no_nan))  # the first baseline is 0
    np.testing.assert_allclose(state.own, [0.1 * mean_of(scored(REWARD)), 0.1], rtol=1e-6)


def test_the_second_block_is_compared_with_the_first():
    def two_updates():
        agent, key = agent_of("sequence_reinforce", dict(entropy_cost=0.0)), jax.random.key(0)
        rollout = block(CHOSEN, REWARD)
        state, _ = agent.update(key, agent.init(key, rollout.transitions.obs[0]), rollout)
        state = state._replace(params={"pi": jnp.asarray(tables()[0]), "value": jnp.asarray(VALUES)})
        after, _ = agent.update(key, state, block(CHOSEN, REWARD + 1))
        return after.params["pi"] - tables()[0]

    with jax.enable_x64(True):
        change = np.asarray(jax.jit(two_updates)())
    baseline = mean_of(scored(REWARD))
    close(change, ascent(reinforce_weights(lambda r: no_nan(REWARD + 1 - baseline))(REWARD, None), 0.0))


def test_self_critical_subtracts_the_greedy_member_and_learns_nothing_from_it():
    reward = np.array([0.5, 0.0, NAN, -1.0, NAN, 1.0, 0.25, 0.5])
    hp = dict(baseline="self-critical", group_size=4, entropy_cost=0.0)
    change, _, metrics = updated(agent_of("sequence_reinforce", hp), block(CHOSEN, reward))
    weight = np.zeros((N, LENGTH))
    for i, t, _, _ in steps():
        advantage = reward[i] - reward[i // 4 * 4]
        weight[i, t] = 0.0 if i % 4 == 0 or math.isnan(advantage) else advantage / 6
    close(change["pi"], ascent(weight, 0.0))
    assert metrics["unscorable"] == 1
    np.testing.assert_allclose(metrics["length"], np.delete(LENGTHS, [0, 4]).mean(), rtol=1e-6)


def test_the_first_of_a_group_is_greedy_in_training_alone(key):
    hp = dict(baseline="self-critical", group_size=3)
    agent = normalize.observations(agent_of("sequence_reinforce", hp))
    assert agent.collect is not None and normalize.observations(agent_of("rloo")).collect is None
    agent, obs = agent_of("sequence_reinforce", hp), jnp.zeros((3000, 1))
    state = agent.init(key, obs)
    (action, _, log_prob), (sampled, _, _) = jax.jit(
        lambda: (agent.collect(key, state, (), obs), agent.act(key, state, (), obs))
    )()
    log_p = log_soft(tables()[0][0])
    assert (np.asarray(action)[::3] == log_p.argmax()).all()
    np.testing.assert_allclose(log_prob, log_p[action], rtol=1e-5)
    for x in (action[1::3], sampled[::3]):
        assert abs(np.mean(np.asarray(x) == log_p.argmax()) - np.exp(log_p.max())) < 0.06
    env = world()
    seen = []
    spy = agent._replace(update=lambda key, state, rollout: (seen.append(rollout.transitions), (state, {}))[1])
    learner = purerl.learner(env, env.default_params, spy, 6, LENGTH)
    (tr,) = jax.jit(lambda: (learner.step(learner.init(key)), seen)[1])()
    best = tables()[0][np.asarray(tr.obs[..., 0], int)].argmax(-1)
    follows = (np.asarray(tr.action) == best) | ~np.asarray(tr.valid)
    assert follows[:, ::3].all() and not follows.all()


def ppo_by_loop(hp, behaviour=OTHER):
    """Changes of logits and values by one gradient step."""
    _, log_ratio, x, acted = tables_of(behaviour)
    in_reward = hp["kl_in"] == "reward"
    counts = [i for i in range(N) if not math.isnan(REWARD[i])]
    advantage, target = np.zeros((N, LENGTH)), np.zeros((N, LENGTH))
    for i in counts:
        y, after, follow = CHOSEN[i], 0.0, VALUES[3]
        for t in reversed(range(LENGTHS[i])):
            last = t == LENGTHS[i] - 1
            reward = (REWARD[i] if last else 0.0) - (0.3 * estimate(hp["kl"], acted[i, t]) if in_reward else 0.0)
            follow = 0.0 if last and ENDED[y] else follow
            delta = reward + 0.9 * follow - VALUES[STATE[y, t]]
            after = delta + 0.9 * 0.8 * after * (not last)
            advantage[i, t], target[i, t] = after, after + VALUES[STATE[y, t]]
            follow = VALUES[STATE[y, t]]
    kept = [(i, t, s, a) for i, t, s, a in steps() if i in counts]
    if hp["normalize_advantage"]:
        all_of = np.array([advantage[i, t] for i, t, _, _ in kept])
        advantage = (advantage - all_of.mean()) / (all_of.std() + 1e-8)
    log_p = log_soft(tables()[0])
    p, logits, values = np.exp(log_p), np.zeros_like(log_p), np.zeros_like(VALUES)
    for i, t, s, a in kept:
        weight = surrogate_slope(math.exp(log_ratio[i, t]), advantage[i, t], 0.2, 0.2)
        weight -= 0.0 if in_reward else 0.3 * slope(hp["kl"], x[i, t])
        logits[s] -= weight * p[s]
        logits[s, a] += weight
        logits[s] -= 0.05 * p[s] * (log_p[s] - (p[s] * log_p[s]).sum())
        values[s] -= 0.7 * (VALUES[s] - target[i, t])
    return logits / len(kept), values / len(kept)


@pytest.mark.parametrize(
    "hp",
    [
        dict(kl="k1", kl_in="reward", normalize_advantage=True),
        dict(kl="k3", kl_in="loss", normalize_advantage=False),
        dict(kl="k2", kl_in="reward", normalize_advantage=False, value_clip=0.1),
    ],
)
def test_sequence_ppo_is_its_equation(hp):
    agent = agent_of("sequence_ppo", dict(**KL, gamma=0.9, gae_lambda=0.8, value_cost=0.7) | hp, reference=REFERENCE)
    change, _, metrics = updated(agent, block(CHOSEN, REWARD, OTHER))
    logits, values = ppo_by_loop(hp)
    close(change["pi"], logits)
    close(change["value"], values)  # before the first step no value has moved, clipped or not
    assert metrics["unscorable"] == 1


def test_rewards_of_steps_are_those_of_penalized_tokens(key):
    """A critic that says 0, γ = λ = 1: the first advantage of a sequence is its penalised reward."""
    reward = np.nan_to_num(REWARD)
    x = tables_of(OTHER)[3]
    expected = objectives.penalized_token_rewards(jnp.asarray(reward), jnp.asarray(x), jnp.asarray(MASK[CHOSEN]), 0.3)
    with jax.enable_x64(True):
        rollout, hp = block(CHOSEN, reward, OTHER), purerl.SequencePPO(kl_cost=0.3)
        state = agent_of("sequence_ppo", dict(kl_cost=0.3), reference=REFERENCE).init(key, rollout.transitions.obs[0])
        tr = sequences.without_tails(rollout.transitions)
        b = sequences.read(purerl.networks.adapters.with_memory(Table()), POLICY, hp, state, tr)
        found = tr.reward - 0.3 * sequences.kl_of_sampled(hp, b).T
        np.testing.assert_allclose(np.where(MASK[CHOSEN].T, found, 0.0), np.asarray(expected).T, atol=1e-6)
        total = sequences.penalized(hp, state, b, tr.reward.sum(0))
    np.testing.assert_allclose(total, np.asarray(expected).sum(-1), atol=1e-6)


# --- expected gradients are exact -------------------------------------------------------------------------------------


def expected_update(agent, chosen, chance_of):
    """The expected change of the logits, over blocks of the sequences `chosen [B, N]`."""

    def of(logits):
        rollouts = block(np.arange(81), tables()[2])
        take = lambda x: np.moveaxis(x[:, chosen], 1, 0)  # [B, T, N, ...]
        blocks = Rollout(jax.tree.map(take, rollouts.transitions), ())
        change = jax.vmap(lambda rollout: one_update(agent, rollout)[0]["pi"])(blocks)
        chance = jnp.exp(jax.nn.log_softmax(logits)[STATE, ALL].sum(-1))
        return jnp.tensordot(chance[jnp.asarray(chosen)[:, chance_of:]].prod(-1), change, 1)

    return in_float64(of)


def test_the_expected_update_is_the_policy_gradient():
    gradient = exact(tables()[2])
    hp = dict(group_size=2, entropy_cost=0.0)
    close(expected_update(agent_of("rloo", hp), PAIRS, 0), gradient)
    greedy = int(np.flatnonzero((greedy_sequence() == ALL).all(-1))[0])
    chosen = np.stack([np.full(81, greedy), np.arange(81)], 1)
    close(expected_update(agent_of("sequence_reinforce", hp | dict(baseline="self-critical")), chosen, 1), gradient)
    chosen = np.arange(81)[:, None]
    for baseline in ("none", "moving-average"):
        found = expected_update(agent_of("sequence_reinforce", dict(baseline=baseline, entropy_cost=0.0)), chosen, 0)
        close(found, gradient)


def greedy_sequence():
    out = ()
    for _ in range(LENGTH):
        out += (int(tables()[0][PREFIXES[out]].argmax()),)
    return np.array(out)


def test_the_penalty_in_the_reward_has_the_gradient_of_the_kl():
    """Of completions, whose tails are no part of the policy: E r - β KL(π ‖ ref)."""

    def objective(logits):
        log_p, log_q = (jax.nn.log_softmax(x)[STATE, ALL] for x in (logits, tables()[1]))
        kl = (MASK * (log_p - log_q)).sum(-1)
        return (jnp.exp(log_p.sum(-1)) * (tables()[2] - 0.3 * kl)).sum()

    agent = agent_of("sequence_reinforce", dict(baseline="none", entropy_cost=0.0, kl_cost=0.3), reference=REFERENCE)
    found = expected_update(agent, np.arange(81)[:, None], 0)
    close(found, in_float64(jax.grad(objective)))


# --- reference and coefficient ----------------------------------------------------------------------------------------


def test_the_reference_stays_and_the_coefficient_moves():
    x, cost = tables_of(tables()[0])[3], 0.3
    kl = np.where(MASK[CHOSEN], np.exp(-x) - 1 + x, 0.0).sum(-1).mean()
    target = kl / 1.1  # what is within 20 % moves it in proportion
    hp = dict(kl_cost=0.3, kl="k3", kl_target=target, group_size=4)

    def updates():
        agent, key = agent_of("rloo", hp, reference=REFERENCE), jax.random.key(0)
        rollout = jax.tree.map(jnp.asarray, block(CHOSEN, REWARD))
        first = agent.init(key, rollout.transitions.obs[0])
        second, one = agent.update(key, first, rollout)
        third, two = agent.update(key, second, rollout)
        fixed = {**hp, "kl_cost": second.kl_cost, "kl_target": None}
        same, _ = agent_of("rloo", fixed, reference=REFERENCE).update(key, second._replace(kl_cost=()), rollout)
        return (first, second, third), (one, two), same

    with jax.enable_x64(True):
        states, metrics, same = jax.tree.map(np.asarray, jax.jit(updates)())
    close(states[2].params["pi"], same.params["pi"])  # the coefficient of an update is that of its state
    assert np.abs(states[2].params["pi"] - 2 * states[1].params["pi"] + states[0].params["pi"]).max() > 1e-6
    for state in states:
        np.testing.assert_array_equal(state.reference["pi"], tables()[1])
    for state, found in zip(states[1:], metrics, strict=True):
        np.testing.assert_allclose(found["kl"], kl, rtol=1e-12)  # of the log-probabilities that acted: the same block
        np.testing.assert_allclose(found["kl_cost"], cost, rtol=1e-12)
        cost *= 1 + 0.1 * (kl - target) / target
        np.testing.assert_allclose(state.kl_cost, cost, rtol=1e-12)
    assert states[2].updates == 2


def test_without_a_reference_of_ones_own_it_is_the_first_policy(key):
    obs = jnp.zeros((4, 1))
    state = agent_of("grpo", dict(kl_cost=0.1)).init(key, obs)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.reference), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()
    assert state.kl_cost == () and agent_of("grpo").init(key, obs).reference == ()
    with pytest.raises(ValueError, match=r"RLOO: there is a kl_target 1\.0, but kl_cost is None; give it a number"):
        agent_of("rloo", dict(kl_target=1.0))
    with pytest.raises(ValueError, match="GRPO: there is a reference, but kl_cost is None"):
        agent_of("grpo", reference=REFERENCE)


# --- masks and minibatches --------------------------------------------------------------------------------------------


class Linear:
    """Linear in an observation of two numbers, from random parameters."""

    @staticmethod
    def init(key, obs):
        return jax.random.normal(key, (2, 4))

    @staticmethod
    def apply(params, obs):
        out = obs @ params
        return out[..., :3], out[..., 3]


VARIANTS = {
    "rloo": dict(kl_cost=0.1, kl_target=1.0),
    "grpo": dict(kl_cost=0.1, mask_truncated=True, dynamic_sampling=True, max_length=6),
    "sequence_reinforce": dict(kl_cost=0.1, kl_in="loss", baseline="self-critical"),
    "sequence_ppo": dict(kl_cost=0.1, value_clip=0.2, num_epochs=2, num_minibatches=2),
}


@pytest.mark.parametrize("name", AGENTS)
def test_what_stands_behind_an_end_has_no_effect_bit_for_bit(name, key):
    """Not even NaN in observations, and no action or flag."""
    random = np.random.default_rng(5)
    lengths, time = np.array([1, 3, 6, 4, 2, 6, 5, 1]), np.arange(6)[:, None]
    valid, last = time < lengths, time == lengths - 1
    obs, next_obs = random.normal(size=(2, 6, 8, 2)).astype(np.float32)
    reward, log_prob = random.normal(size=(2, 6, 8)).astype(np.float32)
    action = random.integers(3, size=(6, 8))
    clean = Transition(obs, action, reward, next_obs, last & (lengths < 6), last & (lengths == 6), valid, log_prob)
    agent = agent_of(name, {"group_size": 4} | VARIANTS[name], network=Linear)

    def poison(x, value):
        return np.where(valid.reshape(6, 8, *[1] * (x.ndim - 2)), x, value).astype(x.dtype)

    @jax.jit
    def of(tr):
        start = agent.init(key, obs[0])
        start = start._replace(reference=jax.tree.map(lambda x: 0.5 * x, start.params))
        return agent.update(key, start, Rollout(tr, ()))

    state, metrics = of(clean)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, metrics)))
    assert (np.asarray(state.params) != np.asarray(agent.init(key, obs[0]).params)).any()
    for value, flag in ((NAN, True), (1e30, False)):
        bad = clean._replace(**{f: poison(getattr(clean, f), value) for f in ("obs", "next_obs", "reward", "log_prob")
                                if f != "log_prob"}, extras=poison(log_prob, value))  # fmt: skip
        bad = bad._replace(
            action=poison(action, 0), terminated=poison(clean.terminated, flag), truncated=poison(clean.truncated, flag)
        )
        again, same = of(bad)
        for a, b in zip(jax.tree.leaves((state, metrics)), jax.tree.leaves((again, same)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_reward_that_cannot_be_scored_is_as_if_it_were_not_there():
    """An unscorable member changes no advantage of its group; only N counts it."""
    hp = dict(group_size=4, entropy_cost=0.0)
    change, _, metrics = updated(agent_of("rloo", hp), block(CHOSEN, REWARD))
    without = np.delete(CHOSEN, 5)
    three = [CHOSEN[:4], REWARD[:4]], [without[4:], np.delete(REWARD, 5)[4:]]
    parts = [updated(agent_of("rloo", hp | dict(group_size=len(c))), block(c, r))[0]["pi"] * len(c) for c, r in three]
    close(change["pi"], sum(parts) / N)
    assert metrics["unscorable"] == 1
    for name in AGENTS:
        _, state, metrics = updated(agent_of(name, hp), block(CHOSEN, np.full(N, NAN)))
        np.testing.assert_array_equal(state.params["pi"], tables()[0])
        assert metrics["unscorable"] == N and all(np.isfinite(x) for x in metrics.values())


def test_cut_sequences_can_be_left_out():
    hp = dict(group_size=4, entropy_cost=0.0, mask_truncated=True)
    advantage = group_advantages(REWARD, "group")
    kept = ENDED[CHOSEN]
    assert 0 < kept.sum() < N and (advantage[~kept] != 0).all()
    for normaliser in (objectives.grpo, objectives.dapo):
        weight = np.zeros((N, LENGTH))
        for i, t, _, _ in steps():
            tokens = N * LENGTHS[i] if normaliser is objectives.grpo else LENGTHS[kept].sum()
            weight[i, t] = kept[i] * advantage[i] / tokens
        change, _, metrics = updated(agent_of("grpo", hp, normaliser=normaliser), block(CHOSEN, REWARD))
        close(change["pi"], ascent(weight, 0.0))
    assert metrics["length"] == LENGTHS.mean()
    whole, _, _ = updated(agent_of("grpo", hp, ended=lambda tr: tr.valid[0]), block(CHOSEN, REWARD))
    close(whole["pi"], updated(agent_of("grpo", hp | dict(mask_truncated=False)), block(CHOSEN, REWARD))[0]["pi"])


def test_dynamic_sampling_learns_from_informative_groups_alone():
    """Blocks of four groups of two: the fifth informative group of the second block has no room."""
    random, hp = np.random.default_rng(8), dict(group_size=2, entropy_cost=0.0)
    blocks = [(random.choice(81, 8), random.normal(size=8)) for _ in range(3)]
    for reward, equal in zip((r for _, r in blocks), ([0, 2], [1], [0, 1, 2, 3]), strict=True):
        for g in equal:
            reward[2 * g + 1] = reward[2 * g]
    # the same optimiser step from a block that has just these groups
    (a, ra), (b, rb), _ = blocks
    index, later = [2, 3, 6, 7], [0, 1, 4, 5]
    chosen, reward = np.concatenate([a[index], b[later]]), np.concatenate([ra[index], rb[later]])
    wanted, _, _ = updated(agent_of("grpo", hp, scale=objectives.batch_scale), block(chosen, reward))

    def run():
        dynamic = hp | dict(dynamic_sampling=True, max_length=LENGTH)
        agent, key = agent_of("grpo", dynamic, scale=objectives.batch_scale), jax.random.key(0)
        state, out = agent.init(key, jnp.zeros((8, 1))), []
        for chosen, reward in blocks:
            state, metrics = agent.update(key, state, block(chosen, reward))
            out.append((state.params["pi"] - tables()[0], state.own.count, metrics))
        return out

    with jax.enable_x64(True):
        (first, count, m), (second, emptied, n), (third, still, o) = jax.tree.map(np.asarray, jax.jit(run)())
    assert not first.any() and count == 2 and not m["learned"] and m["buffered"] == 2 and m["zero_variance"] == 2
    close(second, wanted["pi"])
    assert emptied == 0 and n["learned"] and n["buffered"] == 4 and n["policy_loss"] != 0 and n["zero_variance"] == 1
    np.testing.assert_array_equal(third, second)
    assert still == 0 and o["zero_variance"] == 4 and not o["learned"]
    assert m["policy_loss"] == 0 and m["length"] > 0


def test_minibatches_are_of_whole_sequences():
    """Each is a gradient step of its own on sequences that no other has: their order is all that is random."""
    small = dict(entropy_cost=0.0, group_size=4, learning_rate=1e-3)
    rollout = block(CHOSEN, REWARD)
    once, _, _ = updated(agent_of("rloo", small), rollout)
    parts, _, metrics = updated(agent_of("rloo", small | dict(num_minibatches=4, num_epochs=2)), rollout)
    np.testing.assert_allclose(parts["pi"], 8 * once["pi"], atol=1e-5)  # means over equal numbers of sequences
    assert np.abs(parts["pi"] - 8 * once["pi"]).max() > 1e-9 and 0 < metrics["max_log_ratio"] < 0.01
    with pytest.raises(ValueError, match="num_minibatches is 3; it must divide 8, the sequences"):
        updated(agent_of("grpo", dict(num_minibatches=3)), rollout)


def test_the_ratio_is_one_before_the_first_gradient_step(key):
    """With a learning rate of 0, through the learner: what acted is what is differentiated."""
    env, agent = world(), agent_of("grpo", dict(learning_rate=0.0, num_epochs=2, num_minibatches=2))
    learner = purerl.learner(env, env.default_params, agent, 8, LENGTH)
    _, sums = jax.jit(lambda: learner.step(learner.init(key)))()
    assert sums.metrics["max_log_ratio"] == 0 and sums.metrics["clip_fraction"] == 0


# --- learning ---------------------------------------------------------------------------------------------------------


def world():
    """The 81 sequences as an environment: at the end, the share of tokens that are those of 1 0 1 2."""
    ends, child, reward = np.zeros((40, 3), bool), np.zeros((40, 3), np.int32), np.zeros((40, 3), np.float32)
    for prefix, row in PREFIXES.items():
        for token in range(3):
            after = (*prefix, token)
            ends[row, token] = token == END or len(after) == LENGTH
            child[row, token] = PREFIXES.get(after, 0)
            reward[row, token] = ends[row, token] * sum(a == b for a, b in zip(after, BEST, strict=False)) / LENGTH
    ends, child, reward = map(jnp.asarray, (ends, child, reward))
    move = lambda key, row, action: (child[row, action], reward[row, action], ends[row, action])
    return Probe("81 sequences", np.arange(40)[:, None], lambda key: 0, move, num_actions=3, max_steps=10)


BEST = (1, 0, 1, 2)
LEARNERS = {
    "rloo": {},
    "grpo": dict(dynamic_sampling=True, max_length=LENGTH),
    "sequence_reinforce": dict(baseline="self-critical", group_size=8),
    "sequence_ppo": dict(value_cost=1.0),
}


@pytest.mark.parametrize("name", zoo.params(LEARNERS, wide=("rloo", "sequence_reinforce")))
def test_the_best_sequence_is_found(name, key):
    env = world()
    hp = dict(learning_rate=0.05, entropy_cost=0.02) | LEARNERS[name]
    agent = agent_of(name, hp, Table(np.zeros((40, 3))), optimizer=purerl.gradients.adam)
    learner = purerl.learner(env, env.default_params, agent, 32, LENGTH)
    state, metrics = jax.jit(lambda key: purerl.train(learner, key, 200, 100))(key)
    chance = np.exp(log_soft(np.asarray(state.agent.params["pi"]))[STATE, ALL].sum(-1))
    assert chance[(BEST == ALL).all(-1)].item() > 0.9 and metrics["episode_return"][-1] > 0.9


# --- groups -----------------------------------------------------------------------------------------------------------


def test_the_size_of_groups_is_given_once(key):
    env = world()
    agent = agent_of("rloo", dict(group_size=4))
    assert agent.group_size == 4 and agent_of("sequence_ppo").group_size == 1
    purerl.learner(env, env.default_params, agent, 8, LENGTH, group_size=4)
    with pytest.raises(ValueError, match="group_size is 2; this agent needs groups of 4: leave it out"):
        purerl.learner(env, env.default_params, agent, 8, LENGTH, group_size=2)
    with pytest.raises(ValueError, match="group_size is 4; it must divide num_envs, which is 6"):
        purerl.learner(env, env.default_params, agent, 6, LENGTH)
    with pytest.raises(ValueError, match="group_size is 4; it must divide num_envs, which is 7"):
        updated(agent, block(CHOSEN[:7], REWARD[:7]))
    with pytest.raises(ValueError, match="group_size is 1; the self-critical baseline needs groups of 2 or more"):
        agent_of("sequence_reinforce", dict(baseline="self-critical"))
    with pytest.raises(ValueError, match="max_length is 7; for dynamic sampling it must be rollout_length, 4"):
        updated(agent_of("grpo", dict(dynamic_sampling=True, max_length=7)), block(CHOSEN, REWARD))


def test_the_command_line_asks_for_groups_and_lengths_once():
    import click

    from purerl.runs import options, plans

    for name in AGENTS:
        of_run, own = options.parameters(name)
        assert [p.name for p in (*of_run, *own)].count("group_size") == 1
        assert ("group_size" in {p.name for p in own}) == (name != "sequence_ppo")
    of_run, own = options.parameters("grpo")
    values = lambda words, given: click.Command("", params=list(given)).make_context("", words).params
    hyperparameters = values(["--group-size", "4", "--dynamic-sampling"], own)
    config = {"agent": "grpo", **values(["CartPole-v1", "--rollout-length", "20"], of_run)}
    plan = plans.plan_of({**config, "hyperparameters": hyperparameters})
    agent = plan.agent(plan.hp())
    assert agent.group_size == 4 and plan.config["hyperparameters"]["max_length"] == 20
    state = jax.eval_shape(plan.make(plan.hp()).init, jax.random.key(0))
    assert state.agent.own.batch.action.shape == (20, 16)
    again = plans.plan_of(options.restore(plan.config))
    assert again.config == plan.config
