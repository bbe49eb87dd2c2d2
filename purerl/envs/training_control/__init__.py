"""Environments in which a step is a stretch of another optimisation, whose hyperparameters the agent sets."""
