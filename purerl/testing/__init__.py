"""Conformance checks of agents, environments and rewards, for use in tests."""

from purerl.testing.checks import check_agent, check_env, check_reward

__all__ = ["check_agent", "check_env", "check_reward"]
