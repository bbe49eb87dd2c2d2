"""Environments whose steps are stretches of another optimisation, with its hyperparameters as actions."""
