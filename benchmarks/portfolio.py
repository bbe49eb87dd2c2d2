"""An agent in portfolios of real daily prices: two gates, before anything is claimed.

    python benchmarks/portfolio.py [--seeds 10] [--report]          # needs the extra `data`

1. It can learn: with tomorrow's returns in its observation it reaches 95 % of the oracle's log-growth on later days.
2. It has an advantage: trained on the days before each period (walk-forward), net of costs, on days that played no
   part in any choice, the interval of its growth lies above those of portfolios that need no learning.

Settings are chosen by the first half of the periods, among the configurations by their growth there, and judged by the
second half, which is played once. The one configuration recorded was set in trials on days of the first half.
There is one JSON file for each configuration, half and seed; a run that was stopped continues with what is missing.
"""

from __future__ import annotations

import argparse
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import recorded

import purerl
from purerl import build, rewards, statistics
from purerl.envs.fields import portfolio
from purerl.networks.heads import Head
from purerl.runs import report
from purerl.runs.devices import set_up_jax
from purerl.runs.stream import measure

RESULTS = Path(__file__).parent / "results" / "portfolio"
SEEDS = 10
WINDOW = 10  # days seen
TARGET = 0.95  # of the oracle's growth, with tomorrow's returns seen
PERIOD, PERIODS = 1000, 6  # trading days of a period, and how many there are before the last day
HALVES = {"first": range(PERIODS // 2), "second": range(PERIODS // 2, PERIODS)}
PERCENT = rewards.scale(100.0)  # the training reward: daily log-growth in per cent
DAYS = 252  # a year's
BLOCK = 63  # days of a block that is resampled: a quarter
RESAMPLES = 2_000


class Configuration(NamedTuple):
    """An agent's setting."""

    about: str
    hp: Any
    blocks: tuple[int, int, int]  # environments, steps, updates
    deviation: float = 0.3  # σ of the policy at first, in halves of an action's range
    leak: bool = False


def ppo(blocks: tuple[int, int, int], **changed: Any) -> Any:
    """PPO's hyperparameters, its learning rate annealed over all environment steps."""
    usual = {"learning_rate": 1e-3, "anneal_steps": float(np.prod(blocks)), "entropy_cost": 0.0, "gae_lambda": 0.9}
    return purerl.PPO(**usual | changed)


def configurations() -> dict[str, Configuration]:
    """Every configuration by its key."""
    short, long = (32, 32, 50), (32, 32, 100)
    return {
        "leak": Configuration("PPO, tomorrow is seen", ppo(long, gamma=0.0, learning_rate=3e-3), long, leak=True),
        "month": Configuration("PPO, γ = 0.95", ppo(short, gamma=0.95), short, deviation=0.1),
    }  # fmt: skip


# --- the network ------------------------------------------------------------------------------------------------------


class Evaluators(nn.Module):
    """`obs [B, ...] -> (parameters of a normal policy [B, 2 (1 + A)], value [B])`, with one network for all assets.

    The score of an asset is a function of its own past and weight, and of their mean and largest over the assets; that
    of cash and the value are functions of the means alone. So what is learned of one asset holds for all.

    Reference: Jiang, Xu & Liang, 2017, arXiv:1706.10059, section 5 (identical independent evaluators).
    """

    num_assets: int
    deviation: float  # of the policy at first

    @nn.compact
    def __call__(self, obs):
        size = self.num_assets
        past, weights, ahead = jnp.split(obs, [WINDOW * size, WINDOW * size + size + 1], -1)
        returns = jnp.concatenate([past, ahead], -1).reshape(*obs.shape[:-1], -1, size)
        own = jnp.concatenate([returns, weights[..., None, 1:]], -2).swapaxes(-1, -2)  # [B, A, rows + 1]
        common = jnp.concatenate([own.mean(-2), own.max(-2)], -1)
        beside = jnp.broadcast_to(common[..., None, :], (*own.shape[:-1], common.shape[-1]))
        dense = lambda x: nn.tanh(nn.Dense(32, kernel_init=nn.initializers.orthogonal(np.sqrt(2)))(x))
        score = Head(1, 0.01)(dense(dense(jnp.concatenate([own, beside], -1))))[..., 0]
        cash, value = (Head(1, gain)(dense(dense(common))) for gain in (0.01, 1.0))
        log_std = self.param("log_std", nn.initializers.constant(np.log(self.deviation)), (size + 1,))
        log_std = jnp.broadcast_to(log_std, (*obs.shape[:-1], size + 1))
        return jnp.concatenate([cash, score, log_std], -1), value[..., 0]


# --- periods ----------------------------------------------------------------------------------------------------------


@cache
def environment(leak: bool) -> Any:
    """The portfolio of `sp500_stocks`."""
    return portfolio.Portfolio(window=WINDOW, leak=leak)


def starts(half: str) -> np.ndarray:
    """The first day of each period of a half, `[P]`; the last period ends with the last day."""
    days = len(environment(False).default_params.growth) - 1
    return days - PERIOD * (PERIODS - np.array(HALVES[half]))


def run(root: Path, key: str, half: str, num_seeds: int) -> int:
    """Train the seeds that have no file yet, on the days before each period, and play it; return how many they are."""
    arm, place = configurations()[key], root / key / half
    missing = [seed for seed in range(num_seeds) if not (place / f"{seed}.json").exists()]
    if not missing:
        return 0
    report.note(f"{key}, {half} half: {len(missing)} seeds")
    for seed, found in zip(missing, trained(arm, starts(half), missing), strict=True):
        recorded.save(place / f"{seed}.json", {
            "key": key, "half": half, "seed": seed, "steps": int(np.prod(arm.blocks)),
            "growth": [[round(float(x), 7) for x in period] for period in found["growth"]],
            "turnover": [round(float(x), 4) for x in found["turnover"]],
            "hyperparameters": vars(arm.hp),
            **recorded.made_with("skfolio"),
        }, indent=None)  # fmt: skip
    return len(missing)


def trained(arm: Configuration, first_days: np.ndarray, seeds: list[int]) -> list[dict[str, np.ndarray]]:
    """For each seed the daily net log-growth `[P, PERIOD]` and the mean daily turnover `[P]` of its P policies."""
    env, (num_envs, length, num_updates) = environment(arm.leak), arm.blocks
    params = env.default_params
    network = lambda policy, hp: Evaluators(policy.num_params // 2 - 1, arm.deviation)
    agent = build.agent(purerl.ppo, env.action_space(params), network=network)

    def make(given):
        hp, end = given
        return purerl.learner(env, params.replace(last=end), agent(hp), num_envs, length, PERCENT)

    runs = [(seed, first) for seed in seeds for first in first_days]  # one program for all of them
    ends = np.array([first for _, first in runs])
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(31)))(jnp.array([seed for seed, _ in runs]))
    every = max(1, num_updates // 20)
    measured = measure(make, (arm.hp, ends), keys, jax.devices(), num_updates, every, num_envs * length)
    play = lambda state, first: played(env, agent(arm.hp), state, first)
    growth, turnover = jax.tree.map(np.asarray, jax.jit(jax.vmap(play))(measured.state.agent, jnp.asarray(ends)))
    count = len(first_days)
    split = lambda x: x.reshape(len(seeds), count, *x.shape[1:])
    each = zip(split(growth), split(turnover), strict=True)
    return [{"growth": growth, "turnover": turnover.mean(-1)} for growth, turnover in each]


def played(env: Any, agent: Any, state: Any, first: Any) -> tuple[jax.Array, jax.Array]:
    """The log-growth and the turnover of a period's days, `[PERIOD]` each, of greedy actions."""
    params = env.default_params.replace(first=first, last=first + PERIOD, max_steps_in_episode=PERIOD)

    def step(carry, _):
        obs, env_state, memory = carry
        action, memory = agent.greedy(state, memory, obs[None])
        obs, env_state, reward, _, info = env.step_env(jax.random.key(0), env_state, action[0], params)
        return (obs, env_state, memory), (reward, info["turnover"])

    begin = env.reset_env(jax.random.key(0), params)
    return jax.lax.scan(step, (*begin, agent.memory(1)), length=PERIOD)[1]


# --- portfolios without learning --------------------------------------------------------------------------------------


def minimum_variance(growth: np.ndarray) -> np.ndarray:
    """The weights of the assets, at least 0 and without cash, whose daily growth varies least, `[1 + A]`."""
    from scipy.optimize import minimize

    covariance = np.cov(growth[:, 1:].T) * 1e4  # in percent²: of order 1 for the solver
    size = len(covariance)
    found = minimize(
        lambda w: w @ covariance @ w, np.full(size, 1 / size), jac=lambda w: 2 * covariance @ w, method="SLSQP",
        bounds=[(0, 1)] * size, constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 1000},
    )  # fmt: skip
    weights = np.maximum(found.x, 0)
    return np.append(0.0, weights / weights.sum())


def turnover(growth: np.ndarray, weights: np.ndarray, cost: float) -> float:
    """The mean daily turnover of a portfolio that is brought back to its weights every day, from cash."""
    before, total = np.eye(len(weights))[0], 0.0
    for x in growth:
        left = portfolio.left_after_cost(weights, before, cost)
        total += abs(left * weights - before)[1:].sum()
        before = weights * x / (weights @ x)
    return total / len(growth)


def baselines(half: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The daily net log-growth `[P, PERIOD]` and the turnover `[P]` of each portfolio that needs no learning."""
    params = environment(False).default_params
    cost, every = float(params.cost), np.asarray(params.growth)
    found: dict[str, list[tuple[np.ndarray, float]]] = {}
    for first in starts(half):
        past, now = every[:first], every[first : first + PERIOD]
        equal = np.append(0.0, np.full(now.shape[1] - 1, 1 / (now.shape[1] - 1)))
        constant = {
            "equal weight, daily": equal,
            "minimum variance of the days before": minimum_variance(past),
            "best constant weights of the days before": portfolio.best_constant_weights(past, 1e-6),
            "best constant weights, in hindsight": portfolio.best_constant_weights(now, 1e-6),
        }
        for name, weights in constant.items():
            kept = np.diff(portfolio.rebalanced(now, weights, cost)), turnover(now, weights, cost)
            found.setdefault(name, []).append(kept)
        kept = np.diff(portfolio.buy_and_hold(now, equal, cost)), 1 / PERIOD
        found.setdefault("buy and hold, equal weight", []).append(kept)
    return {name: tuple(map(np.array, zip(*periods, strict=True))) for name, periods in found.items()}


# --- statistics -------------------------------------------------------------------------------------------------------


def block_resamples(length: int, block: int, num_resamples: int, seed: int = 0) -> np.ndarray:
    """Days of the circular block bootstrap, int `[num_resamples, length]`.

    Blocks of consecutive days begin on days that are drawn with replacement, each as likely; day 0 follows the last.

    Reference: Politis & Romano, 1992, "A circular block-resampling procedure for stationary data".
    """
    begins = np.random.default_rng(seed).integers(length, size=(num_resamples, -(-length // block), 1))
    return ((begins + np.arange(block)) % length).reshape(num_resamples, -1)[:, :length]


def interval_of_growth(growth: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean growth a year of seeds `[S, T]`, by resampling blocks of days, and seeds."""
    days = block_resamples(growth.shape[1], BLOCK, RESAMPLES)
    seeds = np.random.default_rng(1).integers(len(growth), size=(RESAMPLES, len(growth)))
    means = [growth[s].mean(0)[d].mean() for s, d in zip(seeds, days, strict=True)]
    low, high = DAYS * np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def sharpe(growth: np.ndarray) -> float:
    """The mean over the standard deviation of daily returns `[T]`, a year's, with no interest on cash."""
    daily = np.expm1(growth)
    return float(np.sqrt(DAYS) * daily.mean() / daily.std())


def drawdown(growth: np.ndarray) -> float:
    """The largest loss of wealth since a highest day before, a share."""
    wealth = np.append(0.0, np.cumsum(growth))
    return float(1 - np.exp((wealth - np.maximum.accumulate(wealth)).min()))


# --- the report -------------------------------------------------------------------------------------------------------


def records(root: Path, key: str, half: str) -> list[dict[str, Any]]:
    """The results of a configuration in a half, one for each seed."""
    paths = sorted((root / key / half).glob("*.json"), key=lambda path: int(path.stem))
    return [recorded.read(path) for path in paths]


def growth_of(found: list[dict[str, Any]]) -> np.ndarray:
    """The daily net log-growth of seeds, `[S, T]`."""
    return np.array([np.concatenate(x["growth"]) for x in found])


def chosen(root: Path) -> str:
    """The configuration whose growth in the first half is largest, in the mean of the seeds."""
    growth = {key: growth_of(records(root, key, "first")) for key, arm in configurations().items() if not arm.leak}
    return max(growth, key=lambda key: growth[key].mean() if growth[key].size else -np.inf)


def first_gate(root: Path) -> str:
    """The share of the oracle's growth that is reached with tomorrow's returns seen, in Markdown."""
    found = records(root, "leak", "first")
    if not found:
        return "Not computed."
    params = environment(False).default_params
    growth, cost = np.asarray(params.growth), float(params.cost)
    oracle = sum(portfolio.oracle(growth[first : first + PERIOD], cost)[0] for first in starts("first"))
    shares = growth_of(found).sum(1) / oracle
    low, high = statistics.interval(shares, statistics.mean)
    interval = f" [{100 * low:.1f}, {100 * high:.1f}], {len(shares)} seeds" if len(shares) > 1 else ", 1 seed"
    return (
        f"The oracle, which knows all prices, has a log-growth of {oracle:.2f} in {PERIOD * len(starts('first'))} days "
        f"after costs. PPO that sees tomorrow's returns reaches {100 * shares.mean():.1f} % of it"
        f"{interval}; the target is {100 * TARGET:g} %: "
        f"{'reached' if shares.mean() >= TARGET else 'missed'}."
    )


def rows(root: Path, half: str, keys: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The daily growth `[S, T]` and turnover `[S, P]` of configurations and baselines."""
    agents = {key: records(root, key, half) for key in keys}
    every = {
        configurations()[key].about: (growth_of(found), np.array([x["turnover"] for x in found]))
        for key, found in agents.items()
        if found
    }
    return every | {name: (growth.reshape(1, -1), turned[None]) for name, (growth, turned) in baselines(half).items()}


def table(every: dict[str, tuple[np.ndarray, np.ndarray]], ours: str | None = None) -> str:
    """Growth, Sharpe ratio, drawdown and costs, and what `ours` has more than each of the others, in Markdown."""
    cost = float(environment(False).default_params.cost)
    more = f"| {ours} has more by [95 %] " if ours else ""
    lines = [
        f"| portfolio | net growth a year [95 %] | Sharpe ratio | drawdown | turnover a day | costs a year {more}|",
        "|---|---|---|---|---|---|" + ("---|" if ours else ""),
    ]  # fmt: skip
    percent = lambda x: f"{100 * x:.2f} %"
    for name, (growth, turned) in every.items():
        low, high = interval_of_growth(growth)
        line = (
            f"| {name} | {percent(DAYS * growth.mean())} [{100 * low:.2f}, {100 * high:.2f}] "
            f"| {np.mean([sharpe(x) for x in growth]):.2f} | {percent(np.mean([drawdown(x) for x in growth]))} "
            f"| {percent(turned.mean())} | {percent(DAYS * cost * turned.mean())} |"
        )
        if ours:
            difference = every[ours][0] - growth
            low, high = interval_of_growth(difference)
            same = name == ours
            line += " |" if same else f" {percent(DAYS * difference.mean())} [{100 * low:.2f}, {100 * high:.2f}] |"
        lines.append(line)
    return "\n".join(lines)


def picture(every: dict[str, tuple[np.ndarray, np.ndarray]], path: Path, ours: str) -> None:
    """Wealth over the second half, each seed of the agent thin."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for name, (growth, _) in every.items():
        for seed in growth if name == ours else growth[:0]:
            axes.plot(np.exp(np.cumsum(seed)), color="C0", linewidth=0.5, alpha=0.5)
        axes.plot(np.exp(np.cumsum(growth.mean(0))), label=name, linewidth=2 if name == ours else 1)
    axes.set(yscale="log", xlabel="trading day of the second half", ylabel="wealth, net of costs")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def verdict(every: dict[str, tuple[np.ndarray, np.ndarray]], ours: str) -> str:
    """Whether the agent's growth is above that of each portfolio without learning, as a sentence."""
    of = {name: interval_of_growth(every[ours][0] - growth) for name, (growth, _) in every.items()}
    known = [name for name in of if name != ours and "hindsight" not in name]
    above, below = [n for n in known if of[n][0] > 0], [n for n in known if of[n][1] < 0]
    said = "The agent has an advantage over every one." if len(above) == len(known) else "No advantage is claimed."
    return (
        f"{said} Of the {len(known)} portfolios without learning that do not know the days, the interval of the "
        f"difference is above 0 for {len(above)} ({', '.join(above) or 'none'}), below 0 for {len(below)} "
        f"({', '.join(below) or 'none'})."
    )


def report_of(root: Path) -> str:
    """Both gates and what was chosen, in Markdown."""
    env, dates = environment(False), portfolio.sp500_stocks().dates
    ours = chosen(root)
    first = rows(root, "first", [key for key, arm in configurations().items() if not arm.leak])
    days = lambda half: f"{dates[starts(half)[0]]} to {dates[starts(half)[-1] + PERIOD]}"
    parts = [
        "# Portfolios of real prices: two gates",
        "Written by `python benchmarks/portfolio.py --report`.",
        "20 stocks that were chosen after the fact (`purerl.envs.fields.portfolio.sp500_stocks`), so that only "
        f"differences mean anything; costs of {100 * float(env.default_params.cost):g} % of what is traded; all begin "
        f"each period of {PERIOD} days in cash. Agents are trained anew before each period, on all days before it. "
        f"Growth is the mean of daily log-returns times {DAYS}, after costs; intervals are those of the circular block "
        f"bootstrap, blocks of {BLOCK} days, {RESAMPLES:,} resamples, of seeds as well. Settings were tried at smaller "
        "size, on seeds from 100 on and days of the first half only.",
        "## First gate: it can learn",
        first_gate(root),
        "## Second gate: an advantage on days that played no part in any choice",
        f"The first half, by which settings were chosen, {days('first')}:",
        table(first),
    ]  # fmt: skip
    if records(root, ours, "second"):
        second = rows(root, "second", [ours])
        about = configurations()[ours].about
        picture(second, root / "portfolio.png", about)
        parts += [
            f"The second half, {days('second')}, played once by {about}:",
            table(second, about),
            verdict(second, about),
            "![wealth](portfolio.png)",
        ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Train what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=recorded.count, default=SEEDS, help=f"seeds of each configuration [{SEEDS}]")
    recorded.options(parser, RESULTS)
    given = parser.parse_args()
    place = recorded.place(given)
    set_up_jax()
    computed = 0
    if not given.report:
        computed = sum(run(place.own, key, "first", given.seeds) for key in configurations())
        computed += run(place.own, chosen(place.own), "second", given.seeds)
    if not computed:
        recorded.nothing_computed(place, "every configuration")
    text = report_of(place.shown)
    (place.shown / "RESULTS.md").write_text(text, encoding="utf-8")
    print(text)
    if place.shown != place.recorded:
        print("\n".join(recorded.beside(compared(place.shown), compared(place.recorded))))


def compared(root: Path) -> dict[str, dict[int, recorded.Seed]]:
    """The results of seeds, as `recorded.beside` takes them."""
    every = {f"{key}, {half}": records(root, key, half) for key in configurations() for half in HALVES}
    return {
        name: {x["seed"]: recorded.Seed(float(np.sum(x["growth"])), x["growth"]) for x in found}
        for name, found in every.items()
    }


if __name__ == "__main__":
    main()
