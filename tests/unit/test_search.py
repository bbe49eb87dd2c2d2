"""Spaces, designs, early stopping and importance, against plain loops and published tables."""

import itertools
import math

import numpy as np
import pytest

import purerl
from purerl.search import designs, halving, importance
from purerl.search.spaces import at, check, choice, from_json, log_uniform, place, to_json, uniform

SPACE = {"learning_rate": log_uniform(1e-4, 1e-1), "clip": uniform(0.1, 0.3), "num_epochs": choice(2, 4, 8)}


def test_values_follow_their_distribution_and_have_their_place():
    us = np.linspace(0, 0.999, 50)
    for u in us:
        rate = at(SPACE["learning_rate"], u)
        assert math.isclose(math.log10(rate), -4 + 3 * u, abs_tol=1e-5) and rate == float(f"{rate:.6g}")
        assert math.isclose(at(SPACE["clip"], u), 0.1 + 0.2 * u, rel_tol=1e-5)
        for name in ("learning_rate", "clip"):
            assert math.isclose(place(SPACE[name], at(SPACE[name], u)), u, abs_tol=1e-5)
        assert at(SPACE["num_epochs"], u) == (2, 4, 8)[math.floor(3 * u)]
    assert [place(SPACE["num_epochs"], x) for x in (2, 4, 8)] == [1 / 6, 1 / 2, 5 / 6]
    third = uniform(1 / 3, 2 / 3)  # its ends have more than six digits, and are not left
    assert at(third, 0.0) >= 1 / 3 and at(third, 1.0) <= 2 / 3


def test_a_space_is_data():
    space = {**SPACE, "hidden": choice((64, 64), (256,))}
    assert from_json(to_json(space)) == space
    assert from_json({"hidden": [[64, 64], [256]]}) == {"hidden": choice((64, 64), (256,))}
    with pytest.raises(ValueError, match="is no space"):
        from_json({"clip": {"lowest": 1}})


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: uniform(1, 1), r"uniform is \[1, 1\]; it must be finite numbers, the first below the second"),
        (lambda: uniform(0, math.inf), "it must be finite"),
        (
            lambda: log_uniform(0, 1),
            r"log_uniform is \[0, 1\]; it must be finite numbers, the first positive and below",
        ),
        (lambda: choice(), "choice is empty"),
        (lambda: choice(1, 1), "choice is 1, 1; it must be values that differ"),
        (lambda: check({}, purerl.PPO), "the space is empty; its fields may be"),
        (lambda: check({"rate": uniform(0, 1)}, purerl.PPO), "the space names rate, which PPO has not; allowed are"),
        (lambda: check({"clip": uniform(0, 1)}, purerl.PPO), "PPO.clip is 0.0; it must be a number > 0"),
        (lambda: check({"gamma": uniform(0.9, 1.1)}, purerl.PPO), r"PPO.gamma is 1.1; it must be a number .* <= 1"),
        (lambda: check({"num_epochs": choice(1, 0)}, purerl.PPO), "PPO.num_epochs is 0; it must be an integer >= 1"),
        (lambda: check({"num_epochs": uniform(1, 4)}, purerl.PPO), "num_epochs is structure and has no interval"),
        (lambda: check({"hidden": uniform(1, 4)}, purerl.PPO, ["hidden"]), "hidden is structure"),
        (lambda: designs.random(SPACE, 0), "random: count is 0; it must be a positive int"),
        (lambda: designs.sobol(SPACE, 0), "sobol: count is 0"),
        (lambda: designs.grid(SPACE, 0), "grid: count is 0"),
        (lambda: halving.halving(0, 81), "halving: trials is 0; it must be a positive int"),
        (lambda: halving.halving(9, 81, eta=1), "halving: eta is 1; it must be at least 2"),
        (lambda: halving.halving(9, 81, least=82), "least is 82; it must be at most steps, which is 81"),
        (lambda: halving.hyperband(0), "hyperband: steps is 0; it must be a positive int"),
    ],
)
def test_bad_input_names_what_is_wrong(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_what_a_space_may_have():
    check({**SPACE, "hidden": choice((4,), (8,)), "value_clip": uniform(0.1, 1)}, purerl.PPO, ["hidden"])


def test_a_grid_has_every_combination():
    points = designs.grid(SPACE, 4)
    rates, clips = [1e-4, 1e-3, 1e-2, 1e-1], [0.1, 0.166667, 0.233333, 0.3]
    assert [tuple(p.values()) for p in points] == list(itertools.product(rates, clips, (2, 4, 8)))
    assert designs.grid({"clip": uniform(0, 1)}, 1) == [{"clip": 0.5}]


def test_sobol_points_are_balanced_in_every_coordinate_and_pair():
    places = lambda points: np.array([[place(uniform(0, 1), p[name]) for name in "abc"] for p in points])
    space = {name: uniform(0, 1) for name in "abc"}
    drawn = places(designs.sobol(space, 64, seed=3))
    for k in range(1, 7):  # 2^k intervals of the same length: as many points in each
        for column in drawn.T:
            assert np.bincount((column * 2**k).astype(int), minlength=2**k).tolist() == [64 >> k] * 2**k
    cells = (drawn[:, :2] * 8).astype(int)  # the first two are a (0, 6, 2)-net: 64 boxes with a point in each
    assert len({*map(tuple, cells)}) == 64
    assert designs.sobol(space, 5, seed=3) == designs.sobol(space, 64, seed=3)[:5]
    assert designs.sobol(space, 5, seed=4) != designs.sobol(space, 5, seed=3)


def test_random_points_have_the_right_distribution_and_a_seed():
    points = designs.random(SPACE, 2000, seed=1)
    assert points == designs.random(SPACE, 2000, seed=1) != designs.random(SPACE, 2000, seed=2)
    for name in ("learning_rate", "clip"):
        u = np.sort([place(SPACE[name], p[name]) for p in points])
        assert np.abs(u - (np.arange(2000) + 0.5) / 2000).max() < 1.63 / math.sqrt(2000)  # Kolmogorov, 1 %
    counts = np.bincount([p["num_epochs"] for p in points])[[2, 4, 8]]
    assert np.abs(counts - 2000 / 3).max() < 4 * math.sqrt(2000 * 2 / 9)


def test_hyperband_is_the_published_table():
    """Li et al., 2018, table 1: R = 81, η = 3."""
    assert [[tuple(rung) for rung in bracket] for bracket in halving.hyperband(81, 3)] == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    assert [bracket[0] for bracket in halving.hyperband(81, 3, least=9)] == [(9, 9), (5, 27), (3, 81)]


@pytest.mark.parametrize("eta", (2, 3, 4))
def test_rungs_shrink_by_eta_and_end_at_all_steps(eta):
    for trials, steps, least in itertools.product((1, 2, 26, 27, 100), (1, 81, 1000), (1, 10)):
        if least > steps:
            continue
        rungs = halving.halving(trials, steps, eta, least)
        assert rungs[0].trials == trials and rungs[-1].steps == steps and rungs[0].steps >= least
        for one, after in itertools.pairwise(rungs):
            assert after.trials == one.trials // eta >= 1 and after.steps // eta == one.steps
        s = len(rungs)  # one more rung would have no trial, or too few steps
        assert trials < eta**s or steps < least * eta**s


def reference(brackets, curve):
    """Algorithm 1 of the paper in a loop: the finalists, and the steps that every trial was trained for."""
    first, finalists, trained = 0, [], {}
    for bracket in brackets:
        left = list(range(first, first + bracket[0].trials))
        first += len(left)
        for i, rung in enumerate(bracket):
            trained |= dict.fromkeys(left, rung.steps)
            ranked = sorted(left, key=lambda trial: (-curve(trial, rung.steps), trial))
            left = left if i + 1 == len(bracket) else sorted(ranked[: bracket[i + 1].trials])
        finalists += left
    return finalists, trained


def search(brackets, curve):
    """The same by levels: all brackets at once."""
    count = sum(bracket[0].trials for bracket in brackets)
    scores, mask, trained = {}, halving.alive(brackets, {}, 0), {}
    assert mask.all() and len(mask) == count
    for level in halving.levels(brackets):
        trained |= dict.fromkeys(np.flatnonzero(mask).tolist(), level)
        scores[level] = np.where(mask, [curve(trial, level) for trial in range(count)], np.inf)  # not read
        mask = halving.alive(brackets, scores, level)
    return np.flatnonzero(mask).tolist(), trained


@pytest.mark.parametrize(
    "brackets",
    [[halving.halving(27, 81)], [halving.halving(20, 100, 2)], halving.hyperband(81), halving.hyperband(64, 4)],
)
def test_of_curves_that_keep_their_ranks_the_best_survives(brackets):
    count = sum(bracket[0].trials for bracket in brackets)
    quality = np.random.default_rng(0).permutation(count)
    rising = lambda trial, steps: quality[trial] * (1 - 0.5 ** (steps / 20))  # never cross
    finalists, trained = search(brackets, rising)
    assert (finalists, trained) == reference(brackets, rising)
    assert max(finalists, key=lambda trial: quality[trial]) == quality.argmax()
    assert sum(trained.values()) == halving.cost(brackets)
    first = 0
    for bracket in brackets:  # of each bracket the best
        own = range(first, first + bracket[0].trials)
        kept = sorted(own, key=lambda trial: -quality[trial])[: bracket[-1].trials]
        assert sorted(kept) == [trial for trial in finalists if trial in own]
        first = own.stop
    crossing = lambda trial, steps: np.sin(quality[trial] + steps)
    assert search(brackets, crossing) == reference(brackets, crossing)


def test_nan_is_worst_and_ties_go_to_the_first():
    scores, everyone = np.array([np.nan, 1.0, -np.inf, 1.0, 0.0]), np.ones(5, bool)
    kept = [np.flatnonzero(halving.best(scores, keep, everyone)).tolist() for keep in range(6)]
    assert kept == [[], [1], [1, 3], [1, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert np.flatnonzero(halving.best(scores, 2, np.array([1, 0, 0, 0, 1], bool))).tolist() == [0, 4]
    assert halving.best(scores, 4, np.array([1, 0, 0, 0, 1], bool)).sum() == 2


def test_importance_is_the_adjusted_share_of_variance():
    rows = np.random.default_rng(0)
    groups, y = rows.integers(0, 4, 40), rows.normal(size=40)
    means = {g: np.mean([v for h, v in zip(groups, y, strict=True) if h == g]) for g in range(4)}
    between = sum((means[g] - y.mean()) ** 2 for g in groups)
    eta = between / sum((v - y.mean()) ** 2 for v in y)
    adjusted = 1 - (1 - eta) * 39 / 36
    assert math.isclose(
        importance.variance_explained(groups, y + groups), importance.variance_explained(3 * groups, y + groups)
    )
    assert math.isclose(importance.variance_explained(groups, y), max(0.0, adjusted), abs_tol=1e-12)
    assert importance.variance_explained(groups, np.ones(40)) == 0.0 == importance.variance_explained(np.arange(40), y)
    noise = [importance.variance_explained(rows.integers(0, 4, 40), rows.normal(size=40)) for _ in range(300)]
    assert np.mean(noise) < 0.04  # η² itself would have a mean of 3 / 39 = 0.077


def test_importance_finds_what_matters_and_how_much():
    points = designs.sobol(SPACE, 256)
    u = np.array([[place(SPACE[name], p[name]) for name in SPACE] for p in points])
    found = importance.importance(SPACE, points, np.exp(5 * u[:, 0]))  # monotone in one
    assert found["learning_rate"] > 0.95 and max(found["clip"], found["num_epochs"]) < 0.05
    both = importance.importance(SPACE, points, 2 * u[:, 0] + u[:, 1])  # variances 4 : 1
    assert abs(both["learning_rate"] - 0.8) < 0.06 and abs(both["clip"] - 0.2) < 0.06
    scores = np.where(u[:, 2] > 0.7, np.nan, u[:, 0])
    assert importance.importance(SPACE, points, scores)["num_epochs"] > 0.3  # what fails counts as the lowest


def test_ranks_are_means_over_ties():
    x = np.array([3.0, 1.0, 3.0, np.nan, 2.0, 3.0])
    below = lambda v: [w for w in x if (np.isnan(w) and not np.isnan(v)) or w < v]
    same = lambda v: [w for w in x if w == v or (np.isnan(w) and np.isnan(v))]
    assert importance.ranks(x).tolist() == [len(below(v)) + (len(same(v)) - 1) / 2 for v in x]
