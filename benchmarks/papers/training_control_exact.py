"""Agents on the environments of training control whose optimum is known, against that optimum.

    python benchmarks/papers/training_control_exact.py [--seeds 10] [--only quadratic] [--record | --report]

There is one JSON file for each arm and seed, and a run that was stopped continues with what is missing. Policies are
judged by their greedy actions: final losses are computed in float64 from the rates that they choose, evaluations of
LeadingOnes by their formula.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sections
from scipy import stats
from sections import recorded

import purerl
from purerl import build, distributions, training
from purerl.envs import LeadingOnes, Luby, NoisyQuadratic, Quadratic, Sigmoid
from purerl.envs.training_control import leading_ones, luby, noisy_quadratic, quadratic, rewards, sigmoid
from purerl.runs import report
from purerl.runs.stream import measure

SEEDS = 10
STEPS, HORIZONS, LEVELS = (1, 2, 3, 5), (50, 100), ((5, 10), (3, 3, 3))

# --- how a policy is judged -------------------------------------------------------------------------------------------


class Played(NamedTuple):
    """Greedy episodes of T steps in E environments: their first states, and actions, rewards and info `[T, E]`."""

    begin: Any
    action: Any
    reward: Any
    info: Any


def play(env: Any, agent: Any, agent_state: Any, key: Any, num_episodes: int = 1) -> Played:
    """One greedy episode in each of several environments, all of the same number of steps."""
    params = env.default_params
    environment, space = training.vectorized(env, params), env.action_space(params)
    reset_key, key = jax.random.split(key)
    obs, begin = environment.reset(jax.random.split(reset_key, num_episodes))

    def step(carry, key):
        obs, state = carry
        action, _ = agent.greedy(agent_state, agent.memory(num_episodes), obs)
        action = distributions.clip_to_space(space, action)
        keys = jax.random.split(key, num_episodes)
        out = environment.step(keys, keys, state, action, None)
        return (out.obs, out.state), (action, out.reward, out.info)

    keys = jax.random.split(key, params.max_steps_in_episode)
    return Played(begin, *jax.lax.scan(step, (obs, begin), keys)[1])


def chosen_rates(env: Any, agent: Any, state: Any, key: Any) -> dict[str, Any]:
    """The learning rates of the greedy policy, `[T]`."""
    return {"rates": jnp.exp(play(env, agent, state, key).action[:, 0, 0])}


def of_schedule(losses: Callable, optimum: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The score of learning rates: the final loss, as a multiple of the optimum."""

    def score(found):
        rates = np.asarray(found["rates"], float)
        final = float(losses(rates)[-1])
        return {"score": final / optimum, "final_loss": final, "rates": [round(float(x), 6) for x in rates]}

    return score


def mean_final_loss(env: Any, agent: Any, state: Any, key: Any) -> dict[str, Any]:
    """The mean final loss over sampled θ, and the mean rates, `[T]`."""
    played = play(env, agent, state, key, 8_192)
    return {"loss": played.info["loss"][-1].mean(), "rates": jnp.exp(played.action[..., 0].mean(1))}


def of_samples(optimum: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The score of a policy for sampled θ: its mean final loss, as a multiple of that of the best fixed schedule."""

    def score(found):
        final = float(found["loss"])
        return {"score": final / optimum, "final_loss": final, "rates": [round(float(x), 6) for x in found["rates"]]}

    return score


def chosen_flips(env: Any, agent: Any, state: Any, key: Any) -> dict[str, Any]:
    """The greedy action at every number of leading ones, `[n]`."""
    del key
    obs = jax.vmap(env.see)(jnp.arange(50))
    return {"actions": agent.greedy(state, agent.memory(50), obs)[0]}


def of_flips(found: dict[str, Any]) -> dict[str, Any]:
    """The score of choices of flips: expected evaluations, as a multiple of the optimum; infinite if it never ends."""
    flips = np.array(leading_ones.PORTFOLIO)[np.asarray(found["actions"])]
    expected = leading_ones.expected_evaluations(flips)
    best = leading_ones.expected_evaluations(leading_ones.best_flips(50, leading_ones.PORTFOLIO))
    return {"score": expected / best, "evaluations": expected, "flips": flips.tolist()}


def mean_return(env: Any, agent: Any, state: Any, key: Any) -> dict[str, Any]:
    """The return of the greedy policy in Luby's environment, which is deterministic."""
    return {"return": play(env, agent, state, key).reward.sum()}


def mean_regret(levels: tuple[int, ...]) -> Callable[..., dict[str, Any]]:
    """The optimal return of Sigmoid's instances minus the greedy policy's, a mean over 8,192 of them."""

    def judge(env, agent, state, key):
        played = play(env, agent, state, key, 8_192)
        best = sigmoid.best_return(played.begin.slope, played.begin.shift, levels)
        return {"return": played.reward.sum(0).mean(), "best": best.mean()}

    return judge


def of_returns(found: dict[str, Any]) -> dict[str, Any]:
    """The score of returns: the regret, in units of the reward."""
    best = float(found.get("best", 0.0))
    return {"score": best - float(found["return"]), "return": float(found["return"]), "best": best}


# --- the arms ---------------------------------------------------------------------------------------------------------


class Arm(NamedTuple):
    """One agent in one environment."""

    about: str
    env: Any
    agent: Callable
    hp: Any
    num_envs: int
    rollout_length: int
    num_updates: int
    judge: Callable[..., dict[str, Any]]  # (env, agent, agent_state, key) -> arrays
    score: Callable[[dict[str, Any]], dict[str, Any]]


def ppo(steps: int, **changed: Any) -> Any:
    """PPO's hyperparameters, its learning rate annealed over all environment steps."""
    given = {
        "learning_rate": 1e-3, "anneal_steps": float(steps), "gamma": 1.0, "entropy_cost": 0.0, "num_epochs": 8,
    }  # fmt: skip
    given |= changed
    return purerl.PPO(**given)


def quadratic_arm(num_steps: int) -> Arm:
    optimum = quadratic.losses(quadratic.optimal_rates(num_steps))[-1]
    num_envs, updates = 128, 400
    hp = ppo(num_envs * num_steps * updates, learning_rate=3e-3, gae_lambda=1.0)
    about = f"Quadratic, K = {num_steps}: PPO"
    score = of_schedule(quadratic.losses, optimum)
    return Arm(about, Quadratic(num_steps), purerl.ppo, hp, num_envs, num_steps, updates, chosen_rates, score)


REWARDS = {
    "log-1": ("fall of log loss, γ = 1", rewards.fall_of_log_loss, 1.0),
    "final-1": ("final log loss alone, γ = 1", rewards.final_log_loss, 1.0),
    "loss-0.9": ("fall of the loss, γ = 0.9", rewards.fall_of_loss, 0.9),
    "loss-0": ("fall of the loss, γ = 0", rewards.fall_of_loss, 0.0),
}


@cache
def best_final_loss(num_steps: int, gamma: float = 1.0) -> float:
    """The final loss of the schedule that is optimal for a discount."""
    return float(noisy_quadratic.losses(noisy_quadratic.best_schedule(num_steps, gamma))[-1])


def noisy_arm(num_steps: int, reward: str, sampled: bool = False) -> Arm:
    name, function, gamma = REWARDS[reward]
    num_envs, updates = 64, 200
    hp = ppo(num_envs * num_steps * updates, gamma=gamma, gae_lambda=0.95)
    env = NoisyQuadratic(num_steps, sampled=sampled, reward=function)
    optimum = best_final_loss(num_steps)
    judge, score = (chosen_rates, of_schedule(noisy_quadratic.losses, optimum))
    if sampled:
        judge, score = mean_final_loss, of_samples(optimum)
    about = f"NoisyQuadratic, T = {num_steps}{', θ sampled' if sampled else ''}: PPO, {name}"
    return Arm(about, env, purerl.ppo, hp, num_envs, num_steps, updates, judge, score)


def discrete_arms() -> dict[str, Arm]:
    num_envs, length, updates = 64, 64, 200
    steps = num_envs * length * updates
    search = ppo(steps, gae_lambda=0.95, entropy_cost=0.01)
    deep = purerl.DQN(
        learning_rate=1e-3, gamma=1.0, capacity=50_000, batch_size=256, learning_starts=2_000, train_every=16,
        target_period=1_000, explore_end=0.05, explore_steps=100_000.0,
    )  # fmt: skip
    arms = {
        "leading-ones-ppo": Arm("LeadingOnes, n = 50: PPO", LeadingOnes(), purerl.ppo, search, num_envs, length,
                                updates, chosen_flips, of_flips),
        "leading-ones-dqn": Arm("LeadingOnes, n = 50: DQN", LeadingOnes(), purerl.dqn, deep, 16, 16, 1_200,
                                chosen_flips, of_flips),
        "luby-ppo": Arm("Luby, T = 64: PPO", Luby(), purerl.ppo, ppo(steps, gae_lambda=0.0, entropy_cost=0.01),
                        num_envs, length, updates, mean_return, of_returns),
        "luby-dqn": Arm("Luby, T = 64: DQN", Luby(), purerl.dqn, deep, 16, 16, 1_200, mean_return, of_returns),
    }  # fmt: skip
    for levels in LEVELS:
        # actions change nothing but the reward
        hp = ppo(128 * 20 * 600, gamma=0.0, gae_lambda=0.0, entropy_cost=0.01, learning_rate=3e-3)
        about = f"Sigmoid, T = 10, levels {' x '.join(map(str, levels))}: PPO"
        arms[f"sigmoid-{'-'.join(map(str, levels))}"] = Arm(
            about, Sigmoid(levels), purerl.ppo, hp, 128, 20, 600, mean_regret(levels), of_returns
        )
    return arms


@cache
def arms() -> dict[str, Arm]:
    """Every arm by its key."""
    noisy = {f"noisy-{steps}-{reward}": noisy_arm(steps, reward) for steps in HORIZONS for reward in REWARDS}
    sampled = {f"noisy-{steps}-sampled": noisy_arm(steps, "log-1", sampled=True) for steps in HORIZONS}
    return {f"quadratic-{k}": quadratic_arm(k) for k in STEPS} | noisy | sampled | discrete_arms()


# --- running ----------------------------------------------------------------------------------------------------------


def run(folder: Path, key: str, num_seeds: int) -> None:
    """Train the seeds of an arm that have no file yet, in one program, and judge them."""
    arm = arms()[key]
    missing = [seed for seed in range(num_seeds) if not (folder / f"{seed}.json").exists()]
    if not missing:
        return
    report.note(f"{key}: {len(missing)} seeds, {arm.num_updates} updates")
    agent = build.agent(arm.agent, arm.env.action_space(arm.env.default_params))
    blocks = arm.num_envs, arm.rollout_length
    make = lambda hp: purerl.learner(arm.env, arm.env.default_params, agent(hp), *blocks)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(26)))(jnp.array(missing))
    every = max(1, arm.num_updates // 50)
    measured = measure(make, arm.hp, keys, jax.devices(), arm.num_updates, every, blocks[0] * blocks[1])
    judge = lambda state, key: arm.judge(arm.env, agent(arm.hp), state, jax.random.fold_in(key, 1))
    found = jax.tree.map(np.asarray, jax.jit(jax.vmap(judge))(measured.state.agent, keys))
    for i, seed in enumerate(missing):
        curve = measured.metrics["episode_return"][:, i]
        recorded.save(folder / f"{seed}.json", {
            "key": key, "seed": seed, **arm.score({name: x[i] for name, x in found.items()}),
            "steps": arm.num_updates * blocks[0] * blocks[1],
            "curve": [None if np.isnan(x) else round(float(x), 4) for x in curve],
            "seconds": round(measured.run_seconds / len(missing), 2),
            "hyperparameters": {name: x for name, x in vars(arm.hp).items()},
            **recorded.made_with(),
        })  # fmt: skip


def compute(root: Path, given: Any) -> None:
    """What is missing."""
    for key in given.names:
        run(root / key, key, given.seeds)


# --- the report -------------------------------------------------------------------------------------------------------


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of few seeds, by Student's t; the mean itself of one seed."""
    mean = float(np.mean(values))
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return mean - half, mean + half


def summary(values: list[float], digits: int) -> str:
    """Mean, 95 % interval, least and most of seeds."""
    if not np.isfinite(values).all():
        return (
            f"{sum(not np.isfinite(x) for x in values)} infinite | {min(values):.{digits}f}, {max(values):.{digits}f}"
        )
    low, high = interval(values)
    between = f"{min(values):.{digits}f}, {max(values):.{digits}f}"
    return f"{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] | {between}"


def quadratic_rows(found: sections.Found) -> list[str]:
    lines = [
        "| K | optimum | greedy | best constant | PPO: final loss / optimum, mean [95 % interval] | least, most "
        "| seeds | at most 1.05 | better than greedy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for k in STEPS:
        constant = np.full(k, quadratic.best_constant_rate(k))
        known = quadratic.optimal_rates(k), quadratic.steepest_descent_rates(k), constant
        optimum, greedy, constant = (quadratic.losses(rates)[-1] for rates in known)
        runs = found[f"quadratic-{k}"].values()
        cells = f"| {k} | {optimum:.6f} | {greedy:.6f} | {constant:.6f} "
        if not runs:
            lines.append(cells + "| not run | | | | |")
            continue
        score, final = ([x[name] for x in runs] for name in ("score", "final_loss"))
        good, better = sum(x <= 1.05 for x in score), "-" if k == 1 else sum(x < greedy for x in final)
        lines.append(f"{cells}| {summary(score, 4)} | {len(runs)} | {good} | {better} |")
    return lines


def noisy_rows(found: sections.Found) -> list[str]:
    lines = []
    for steps in HORIZONS:
        shapes = {
            "best cosine to 0": noisy_quadratic.cosine,
            "best constant": noisy_quadratic.constant,
        }
        known = {
            "best schedule": noisy_quadratic.best_schedule(steps),
            **{name: shape(noisy_quadratic.best_of_shape(shape, steps), steps) for name, shape in shapes.items()},
            "greedy at every step": noisy_quadratic.greedy_schedule(steps),
            **{
                f"optimal for the fall of the loss, γ = {gamma}": noisy_quadratic.best_schedule(steps, gamma)
                for gamma in (0.5, 0.9, 0.99)
            },
        }
        final = {name: noisy_quadratic.losses(rates)[-1] for name, rates in known.items()}
        lines += [
            f"| T = {steps} | final loss, mean [95 % interval] | least, most | seeds | below constant and greedy |",
            "|---|---|---|---|---|",
            *[f"| {name} | {x:.6f} | | | |" for name, x in final.items()],
        ]
        limit = min(final["best constant"], final["greedy at every step"])
        for key in [f"noisy-{steps}-{reward}" for reward in REWARDS] + [f"noisy-{steps}-sampled"]:
            runs, name = found[key].values(), arms()[key].about.split(": ", 1)[1]
            name += ", θ sampled" if key.endswith("sampled") else ""
            losses = [x["final_loss"] for x in runs]
            cells = (
                f"{summary(losses, 4)} | {len(runs)} | {sum(x < limit for x in losses)}" if runs else "not run | | |"
            )
            lines.append(f"| {name} | {cells} |")
        lines.append("")
    return lines


def discrete_rows(found: sections.Found) -> list[str]:
    lines = ["| environment and agent | measure | optimum | mean [95 % interval] | least, most | seeds | within 3 % |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for key in discrete_arms():
        runs, about = found[key].values(), arms()[key].about
        name, measure_of, digits, near = "score", "regret", 3, "-"
        optimum = "0"
        if key.startswith("leading"):
            name, measure_of, digits = "evaluations", "expected evaluations", 1
            near = str(sum(x["score"] <= 1.03 for x in runs))
            optimum = f"{leading_ones.expected_evaluations(leading_ones.best_flips(50, leading_ones.PORTFOLIO)):.4f}"
        cells = f"{summary([x[name] for x in runs], digits)} | {len(runs)} | {near}" if runs else "not run | | |"
        lines.append(f"| {about} | {measure_of} | {optimum} | {cells} |")
    return lines


def picture(found: sections.Found, file: Path) -> None:
    """Ratios to the optimum, schedules, losses, final losses by discount, flips, and learning curves."""
    import matplotlib.pyplot as plt

    figure, ((ratio, schedule, path), (discount, flips, curves)) = plt.subplots(
        2, 3, figsize=(16, 9), layout="constrained"
    )
    for i, k in enumerate(STEPS):
        optimum = quadratic.losses(quadratic.optimal_rates(k))[-1]
        constant = np.full(k, quadratic.best_constant_rate(k))
        marks = {
            "greedy (steepest descent)": (quadratic.steepest_descent_rates(k), "C1"),
            "best constant": (constant, "C3"),
        }
        for name, (rates, color) in marks.items():
            height = quadratic.losses(rates)[-1] / optimum
            ratio.plot([i - 0.3, i + 0.3], [height, height], color, label=name if i == 0 else None)
        scores = [x["score"] for x in found[f"quadratic-{k}"].values()]
        ratio.plot(i + np.linspace(-0.2, 0.2, len(scores)), scores, "C0.", label="PPO, seeds" if i == 0 else None)
    ratio.axhline(1.05, color="grey", linewidth=0.7, linestyle=":")
    ratio.set(xticks=range(len(STEPS)), xticklabels=[f"K = {k}" for k in STEPS], yscale="log",
              title="Quadratic: final loss / optimum (dotted: 1.05)")  # fmt: skip
    ratio.legend(fontsize=8)
    steps = HORIZONS[-1]
    peak, flat = (noisy_quadratic.best_of_shape(x, steps) for x in (noisy_quadratic.cosine, noisy_quadratic.constant))
    known = {
        "best schedule": (noisy_quadratic.best_schedule(steps), "k"),
        "best cosine": (noisy_quadratic.cosine(peak, steps), "C7"),
        "best constant": (noisy_quadratic.constant(flat, steps), "C3"),
        "greedy": (noisy_quadratic.greedy_schedule(steps), "C1"),
    }
    agents = {f"noisy-{steps}-{reward}": f"C{i}" for reward, i in zip(REWARDS, (0, 2, 4, 5), strict=True)}
    for ax, of in ((schedule, lambda rates: rates), (path, noisy_quadratic.losses)):
        for name, (rates, color) in known.items():
            ax.plot(of(rates), color, linewidth=2, alpha=0.6, label=name)
        for key, color in agents.items():
            for i, x in enumerate(found[key].values()):
                name = f"PPO, {arms()[key].about.split('PPO, ')[1]}" if i == 0 else None
                ax.plot(of(np.array(x["rates"])), color, linewidth=0.6, label=name)
        ax.set(yscale="log", xlabel="step")
    schedule.set_ylim(bottom=1e-2)
    schedule.set(title=f"NoisyQuadratic, T = {steps}: learning rates")
    path.set(title="expected loss on the way")
    path.legend(fontsize=7)
    gammas = [0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0]
    for steps, color in zip(HORIZONS, ("C0", "C2"), strict=True):
        final = [best_final_loss(steps, gamma) / best_final_loss(steps) for gamma in gammas]
        discount.plot(final, f"{color}-", label=f"optimal for its γ, T = {steps}")
        for reward, (_, _, gamma) in REWARDS.items():
            scores = [x["score"] for x in found[f"noisy-{steps}-{reward}"].values()]
            if reward != "final-1":
                discount.plot(np.full(len(scores), gammas.index(gamma)), scores, f"{color}.")
    discount.set(
        xticks=range(len(gammas)),
        xticklabels=[f"{x:g}" for x in gammas],
        xlabel="γ",
        ylabel="final loss / optimum",
        title="short-sighted rewards (dots: PPO)",
    )
    discount.legend(fontsize=8)
    flips.step(
        range(50), leading_ones.best_flips(50, leading_ones.PORTFOLIO), "k", where="mid", label="best of portfolio"
    )
    flips.step(range(50), leading_ones.best_flips(50), "C7", where="mid", label="best of all", linewidth=0.7)
    for key, color in (("leading-ones-ppo", "C0"), ("leading-ones-dqn", "C1")):
        for i, x in enumerate(found[key].values()):
            name = arms()[key].about.split(": ")[1] if i == 0 else None
            flips.step(range(50), x["flips"], color, where="mid", alpha=0.4, label=name)
    flips.set(yscale="log", xlabel="leading ones", title="LeadingOnes: bits to flip")
    flips.legend(fontsize=8)
    for i, key in enumerate(k for k in discrete_arms() if not k.startswith("leading")):
        runs = [*found[key].values()]
        if runs:
            curve = np.array([x["curve"] for x in runs], float)
            regret = np.mean([x["best"] for x in runs]) - curve
            at = np.linspace(0, runs[0]["steps"], curve.shape[1] + 1)[1:]
            curves.plot(at, regret.mean(0), f"C{i}", label=arms()[key].about)
            curves.fill_between(at, regret.min(0), regret.max(0), color=f"C{i}", alpha=0.2)
    curves.set(yscale="symlog", xlabel="environment steps", title="regret while learning, with exploration")
    curves.set_ylim(bottom=0)
    curves.legend(fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def section(found: sections.Found) -> str:
    """The section of CONTROL.md."""
    lines = [
        "## Exact: problems whose optimum is known",
        "",
        "`python benchmarks/papers/training_control_exact.py`. Policies are judged by their greedy actions after "
        "training, losses in float64 from the rates chosen. Actor and critic are two networks of two layers of 64. "
        "Intervals of means over seeds are Student's.",
        "",
        "**Quadratic**, gradient descent with K rates; the optimum is K steps of conjugate gradients. PPO with the "
        "fall of the log loss as its reward, γ = 1.",
        "",
        *quadratic_rows(found),
        "",
        "**NoisyQuadratic**, T rates, the deterministic MDP of the second moments. PPO with different rewards. Where θ "
        "is sampled, the policy observes its loss, and may be better than the best schedule, which is fixed:",
        "",
        *noisy_rows(found),
        "**LeadingOnes, Luby, Sigmoid**. Expected evaluations are those of the formula; the regret of Luby is the "
        f"number of wrong actions of {len(luby.luby(64))}, that of Sigmoid is in units of the return, at most 10. "
        "PPO's settings on Sigmoid are a second choice, made on another seed; with γ = 1, a rate of 0.001 and an "
        "entropy cost of 0.003 the regrets were 1.10 [1.05, 1.14] and 2.18 [2.17, 2.19].",
        "",
        *discrete_rows(found),
        "",
        "![training control with known optima](training-control-exact.png)",
    ]
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, then report."""
    sections.main(
        sections.parser(__doc__, SEEDS), "training-control-exact", "CONTROL.md", "exact", compute, section, picture,
        value=lambda x: x["score"], names=arms(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
