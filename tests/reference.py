"""Slow and obvious NumPy versions of what the package computes: the docstrings' equations as loops, in float64."""

import numpy as np


def gae(reward, value, next_value, terminated, truncated, gamma, lam):
    advantage = np.zeros_like(reward, dtype=np.float64)
    for t in range(len(reward)):
        weight = np.ones(reward.shape[1:])
        for k in range(t, len(reward)):
            delta = reward[k] + gamma * np.where(terminated[k], 0.0, next_value[k]) - value[k]
            advantage[t] += weight * delta
            weight = weight * gamma * lam * np.where(terminated[k] | truncated[k], 0.0, 1.0)
    return advantage


def n_step(reward, next_value, terminated, truncated, gamma, n):
    returns = np.zeros_like(reward, dtype=np.float64)
    for index in np.ndindex(reward.shape):
        t, rest = index[0], index[1:]
        discount = 1.0
        for k in range(t, min(t + n, len(reward))):
            at = (k, *rest)
            returns[index] += discount * reward[at]
            discount *= gamma
            if terminated[at]:
                break
            if truncated[at] or k == min(t + n, len(reward)) - 1:
                returns[index] += discount * next_value[at]
                break
    return returns


def lambda_returns(reward, next_value, terminated, truncated, gamma, lam):
    """(1 - λ) Σ λⁿ⁻¹ G⁽ⁿ⁾ over all n, with what is left of the weight on the longest return."""
    returns = np.zeros_like(reward, dtype=np.float64)
    steps = [n_step(reward, next_value, terminated, truncated, gamma, n) for n in range(1, len(reward) + 1)]
    for index in np.ndindex(reward.shape):
        longest = 1
        for k in range(index[0], len(reward) - 1):
            if terminated[(k, *index[1:])] or truncated[(k, *index[1:])]:
                break
            longest += 1
        for n in range(1, longest):
            returns[index] += (1 - lam) * lam ** (n - 1) * steps[n - 1][index]
        returns[index] += lam ** (longest - 1) * steps[longest - 1][index]
    return returns


def reward_returns(reward, ended, gamma):
    """Every step's discounted return so far in its episode, for `[T]` rewards."""
    returns, so_far = [], 0.0
    for r, end in zip(reward, ended, strict=True):
        so_far = gamma * so_far + r
        returns.append(so_far)
        so_far = 0.0 if end else so_far
    return np.array(returns)


def iqm(scores):
    scores = sorted(np.asarray(scores, float).reshape(-1))
    cut = len(scores) // 4
    kept = scores[cut : len(scores) - cut]
    return sum(kept) / len(kept)


def corrections(delta, trace, ended, gamma):
    """Σₖ γᵏ⁻ᵗ (Π cᵢ for t ≤ i < k) δₖ up to the end of each step's episode."""
    total = np.zeros_like(delta, dtype=np.float64)
    for t in range(len(delta)):
        weight = np.ones(delta.shape[1:])
        for k in range(t, len(delta)):
            total[t] += weight * delta[k]
            weight = weight * gamma * trace[k] * np.where(ended[k], 0.0, 1.0)
    return total


def vtrace(log_ratio, reward, value, next_value, terminated, truncated, gamma, lam, clip_rho, clip_c):
    """The paper's sum (eq. 1), and its policy gradient's weight with the next step's target."""
    ratio, ended = np.exp(log_ratio), terminated | truncated
    rho, c = np.minimum(ratio, clip_rho), lam * np.minimum(ratio, clip_c)
    delta = rho * (reward + gamma * np.where(terminated, 0.0, next_value) - value)
    target = value + corrections(delta, c, ended, gamma)
    advantage = np.zeros_like(value)
    for i in np.ndindex(value.shape):
        after = next_value[i]
        if not ended[i] and i[0] + 1 < len(value):
            after = (1 - lam) * after + lam * target[(i[0] + 1, *i[1:])]
        advantage[i] = rho[i] * (reward[i] + (0.0 if terminated[i] else gamma * after) - value[i])
    return target, advantage


def off_policy_returns(weight, reward, value, next_value, terminated, truncated, gamma):
    """Q + corrections whose trace into step k + 1 is `weight[k + 1]`."""
    delta = reward + gamma * np.where(terminated, 0.0, next_value) - value
    trace = np.concatenate([weight[1:], weight[-1:]])
    return value + corrections(delta, trace, terminated | truncated, gamma)
