from functools import partial

import numpy as np
import pytest
import reference
import scipy.stats

from purerl import statistics


@pytest.mark.parametrize("shape", [(1,), (3,), (8,), (10, 5), (7, 3)])
def test_iqm_is_the_mean_of_the_middle_half(shape):
    scores = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(statistics.iqm(scores), reference.iqm(scores))
    # the published definition: a trimmed mean of all runs and tasks
    np.testing.assert_allclose(statistics.iqm(scores), scipy.stats.trim_mean(scores, 0.25, axis=None))
    if len(shape) == 2:
        np.testing.assert_allclose(statistics.iqm(scores, axis=0), scipy.stats.trim_mean(scores, 0.25, axis=0))
        np.testing.assert_allclose(statistics.iqm(scores[None], axis=(1, 2)), [statistics.iqm(scores)])


def test_a_score_that_is_nan_is_not_discarded():
    """Sorting puts it last, among the quarter that is left out."""
    scores = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [np.nan, 8.0]])
    for of in (statistics.iqm, statistics.mean, statistics.median, statistics.optimality_gap):
        assert np.isnan(of(scores[:, 0])) and np.isnan(of(scores)), of.__name__
    np.testing.assert_array_equal(statistics.iqm(scores, axis=0), [np.nan, 6.5])
    for refused in (
        statistics.interval,
        partial(statistics.performance_profile, thresholds=[0.0]),
        partial(statistics.probability_of_improvement, [1.0]),
        partial(statistics.improvement_interval, [1.0]),
    ):
        with pytest.raises(ValueError, match=r"NaN|must be finite"):
            refused(scores[:, 0])


def test_interval_covers_and_agrees_with_scipy():
    rng = np.random.default_rng(0)
    scores = rng.normal(5, 2, 30)
    low, high = statistics.interval(scores, statistics.mean, num_resamples=20_000)
    theirs = scipy.stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=20_000, rng=rng)
    np.testing.assert_allclose([low, high], theirs.confidence_interval, atol=0.05)
    hits = 0
    for _ in range(200):
        low, high = statistics.interval(rng.normal(size=20), statistics.mean, num_resamples=300)
        hits += low <= 0 <= high
    assert 0.86 <= hits / 200 <= 0.99


def test_interval_is_stratified():
    """Runs are drawn within each task, so a difference between tasks adds nothing to the interval."""
    scores = np.array([[0.0, 100.0]] * 6)
    assert statistics.interval(scores, statistics.mean) == (50.0, 50.0)
    # each task draws runs of its own: perfectly opposed runs do not cancel
    opposed = np.stack([np.arange(10.0), -np.arange(10.0)], axis=1)
    low, high = statistics.interval(opposed, statistics.mean)
    assert high - low > 1


def test_interval_is_repeatable_and_checks_input():
    scores = np.random.default_rng(0).normal(size=10)
    assert statistics.interval(scores) == statistics.interval(scores)
    assert statistics.interval(scores, seed=1) != statistics.interval(scores)
    assert statistics.interval([4.0]) == (4.0, 4.0)
    with pytest.raises(ValueError, match="confidence is 95"):
        statistics.interval(scores, confidence=95)
    for f in (statistics.iqm, statistics.interval):
        with pytest.raises(ValueError, match="no scores"):
            f([])
    for bad in ([1.0, np.nan], [1.0, np.inf], np.ones((2, 2, 2))):
        with pytest.raises(ValueError, match=r"interval: scores of shape .* must be finite, \[runs\] or"):
            statistics.interval(bad)


def test_probability_of_improvement_is_mann_whitney():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (8, 2)), rng.integers(0, 5, (6, 2))
    u = [scipy.stats.mannwhitneyu(x[:, i], y[:, i]).statistic / 48 for i in range(2)]
    np.testing.assert_allclose(statistics.probability_of_improvement(x, y), np.mean(u))
    assert statistics.probability_of_improvement(x, x) == 0.5
    with pytest.raises(ValueError, match="tasks"):
        statistics.probability_of_improvement(x, y[:, 0])


def test_median_and_optimality_gap_by_hand():
    scores = np.random.default_rng(0).normal(size=(7, 4))
    means = sorted(sum(scores[:, task]) / 7 for task in range(4))
    np.testing.assert_allclose(statistics.median(scores), (means[1] + means[2]) / 2)
    np.testing.assert_allclose(statistics.median(scores[:, 0]), scores[:, 0].mean())
    np.testing.assert_allclose(statistics.median(scores.T, axis=(1, 0)), statistics.median(scores))
    for target in (1.0, -0.5):
        gaps = [target - x if x < target else 0.0 for x in scores.reshape(-1)]
        np.testing.assert_allclose(statistics.optimality_gap(scores, target=target), sum(gaps) / 28)
    assert statistics.optimality_gap([1.0, np.inf]) == 0.0 and statistics.optimality_gap([-np.inf]) == np.inf
    # both are statistics for `interval`, in resamples as alone
    for statistic in (statistics.median, statistics.optimality_gap, partial(statistics.optimality_gap, target=2.0)):
        np.testing.assert_allclose(statistic(np.stack([scores, -scores]), axis=(1, 2))[0], statistic(scores))
        low, high = statistics.interval(scores, statistic)
        assert low < statistic(scores) < high
    for function, bad in ((statistics.median, []), (statistics.optimality_gap, [])):
        with pytest.raises(ValueError, match="no scores"):
            function(bad)
    with pytest.raises(ValueError, match="axis is 0; it must be None, or the axes of runs and of tasks"):
        statistics.median(scores, axis=0)


def resampled(rng, scores):
    """Runs drawn with replacement, task by task."""
    runs, tasks = scores.shape
    return np.stack([scores[[rng.integers(runs) for _ in range(runs)], task] for task in range(tasks)], axis=1)


@pytest.mark.parametrize("of_means", [False, True])
def test_performance_profiles_by_hand(of_means):
    scores = np.random.default_rng(0).normal(size=(6, 3)).round(1)
    thresholds = [-9.0, scores[2, 1], 0.0, 0.5, 9.0]
    of = lambda x: x.mean(0, keepdims=True) if of_means else x
    share = lambda x: [np.mean([value > tau for value in of(x).reshape(-1)]) for tau in thresholds]
    profile = statistics.performance_profile(scores, thresholds, of_means, num_resamples=4000)
    np.testing.assert_allclose(profile.share, share(scores))
    assert profile.share[0] == 1 and profile.share[-1] == 0
    rng = np.random.default_rng(1)
    drawn = np.array([share(resampled(rng, scores)) for _ in range(2000)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(profile.low, low, atol=0.06)
    np.testing.assert_allclose(profile.high, high, atol=0.06)
    assert (profile.low <= profile.share).all() and (profile.share <= profile.high).all()
    assert profile.low[0] == profile.high[0] == 1  # certain


def test_performance_profiles_integrate_to_the_mean():
    """∫ F(τ) dτ from 0 is the mean of scores that are positive."""
    scores = np.random.default_rng(0).random((5, 4))
    grid = np.linspace(0, 1, 4001)
    profile = statistics.performance_profile(scores, grid[:-1], num_resamples=2)
    np.testing.assert_allclose(profile.share.mean(), scores.mean(), atol=5e-4)
    assert (np.diff(profile.share) <= 0).all()


def test_an_interval_of_the_probability_of_improvement():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, 1, (7, 3)), rng.normal(0, 1, (5, 3))
    low, high = statistics.improvement_interval(x, y, num_resamples=4000)
    drawn = [statistics.probability_of_improvement(resampled(rng, x), resampled(rng, y)) for _ in range(4000)]
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975]), atol=0.02)
    assert low < statistics.probability_of_improvement(x, y) < high
    # exchanged, the interval is that of the complement
    other = statistics.improvement_interval(y, x, num_resamples=4000)
    np.testing.assert_allclose(other, [1 - high, 1 - low], atol=0.02)
    assert statistics.improvement_interval(x + 100, y) == (1.0, 1.0)
    assert statistics.improvement_interval([2.0, 2.0], [2.0]) == (0.5, 0.5)
    hits = 0
    for _ in range(200):  # it covers what is so in truth
        a, b = rng.normal(size=20), rng.normal(size=20)
        low, high = statistics.improvement_interval(a, b, num_resamples=300)
        hits += low <= 0.5 <= high
    assert 0.86 <= hits / 200 <= 0.99


def test_what_is_compared_is_checked():
    profile, improvement = statistics.performance_profile, statistics.improvement_interval
    bad = [
        (lambda: profile([], [0.0]), "scores has shape"),
        (lambda: profile(np.ones((2, 2, 2)), [0.0]), r"scores has shape \(2, 2, 2\); it must be \[runs\] or"),
        (lambda: profile([1.0], []), r"thresholds are \[\]; they must be a vector"),
        (lambda: profile([1.0], [0.0], confidence=0.0), "performance_profile: confidence is 0.0"),
        (lambda: improvement([1.0], [1.0], num_resamples=2.5), "num_resamples is 2.5; it must be a positive int"),
        (lambda: statistics.median([1.0], axis=(0,)), r"axis is \(0,\); it must be None, or the axes"),
        (lambda: profile([1.0, np.nan], [0.0]), "scores has 1 NaN; there must be none"),
        (lambda: profile([1.0], 0.0), "thresholds are 0.0; they must be a vector"),
        (lambda: profile([1.0], [np.nan]), r"thresholds are \[nan\]"),
        (lambda: profile([1.0], [0.0], confidence=1.0), "performance_profile: confidence is 1.0"),
        (lambda: improvement([1.0], np.ones((2, 2))), "improvement_interval: x has 1 tasks and y 2"),
        (lambda: improvement([1.0], [np.nan]), "y has 1 NaN"),
        (lambda: improvement([1.0], [1.0], num_resamples=0), "num_resamples is 0; it must be a positive int"),
        (lambda: statistics.probability_of_improvement([np.nan], [1.0]), "probability_of_improvement: x has 1 NaN"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


def test_result_is_over_the_last_hundred_episodes():
    episodes = np.array([[50, 90], [60, 0], [30, 30], [20, 5]])
    returns = np.array([[1.0, 2.0], [10.0, np.nan], [20.0, 3.0], [30.0, 4.0]])
    first = (60 * 10 + 30 * 20 + 20 * 30) / 110
    second = (90 * 2 + 30 * 3 + 5 * 4) / 125
    np.testing.assert_allclose(statistics.last_returns(episodes, returns), [first, second])
    assert np.isnan(statistics.last_returns(np.zeros((2, 1)), np.full((2, 1), np.nan))).all()
