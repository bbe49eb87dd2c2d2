"""Small environments of the fields that reinforcement learning is applied to, each with its optimum beside it.

Supply chains: `inventory`. Traffic: `traffic_signal`, `highway`, `car_following`. Trading: `execution`, `portfolio`.
Energy: `battery`. Signals: `spectrum`. Medical images: `acquisition`. Attention: `glimpses`.

Parameters are checked by `reset_env` and `step_env`, and hence in training, if their values are known. The `reset` and
`step` of gymnax are compiled functions of the parameters, whose values are traced there: nothing is checked.
"""
