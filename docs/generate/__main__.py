"""Write every generated page: `python -m generate`, in docs/."""

from generate import agents, api, environments, repository

for write in (api.api, agents.all_agents, environments.environments, repository.commands, repository.carried):
    write()
