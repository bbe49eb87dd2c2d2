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


def test_probability_of_improvement_is_mann_whitney():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (8, 2)), rng.integers(0, 5, (6, 2))
    u = [scipy.stats.mannwhitneyu(x[:, i], y[:, i]).statistic / 48 for i in range(2)]
    np.testing.assert_allclose(statistics.probability_of_improvement(x, y), np.mean(u))
    assert statistics.probability_of_improvement(x, x) == 0.5
    with pytest.raises(ValueError, match="tasks"):
        statistics.probability_of_improvement(x, y[:, 0])


def test_result_is_over_the_last_hundred_episodes():
    episodes = np.array([[50, 90], [60, 0], [30, 30], [20, 5]])
    returns = np.array([[1.0, 2.0], [10.0, np.nan], [20.0, 3.0], [30.0, 4.0]])
    first = (60 * 10 + 30 * 20 + 20 * 30) / 110
    second = (90 * 2 + 30 * 3 + 5 * 4) / 125
    np.testing.assert_allclose(statistics.last_returns(episodes, returns), [first, second])
    assert np.isnan(statistics.last_returns(np.zeros((2, 1)), np.full((2, 1), np.nan))).all()
