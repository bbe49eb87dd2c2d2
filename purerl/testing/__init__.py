"""Contracts that agents, environments and rewards keep, as functions to call in your own tests."""

from purerl.testing.checks import check_agent, check_env, check_reward

__all__ = ["check_agent", "check_env", "check_reward"]
