"""Small environments of the fields that reinforcement learning is applied to, each with its optimum beside it.

Supply chains: `inventory`. Traffic: `traffic_signal`, `highway`, `car_following`. Trading: `execution`, `portfolio`.
Energy: `battery`. Signals: `spectrum`. Medical images: `acquisition`. Attention: `glimpses`.
"""
