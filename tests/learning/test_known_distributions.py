"""Agents that learn distributions of returns in MDPs whose values are known; `contract` tests the other agents so."""

import known_values
import pytest
from known_values import BANDITS
from probes_together import NAMES


@pytest.mark.parametrize("agent", known_values.DISTRIBUTIONAL)
def test_means_of_distributions_are_the_known_values(agent):
    """All MDPs in one test, since they are one program, and workers share none."""
    for name in NAMES:
        known_values.check_values(agent, name)
    for name in BANDITS:
        known_values.check_actions(agent, name)
