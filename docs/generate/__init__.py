"""Pages made of the package's own data, so that nothing is written twice."""

from generate import agents, api, environments, repository


def pages() -> None:
    """Write every generated page."""
    for make in (api.api, agents.all_agents, environments.environments, repository.commands, repository.carried):
        make()
