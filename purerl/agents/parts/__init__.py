"""Common parts of agents: one file per family, and one for replay."""
