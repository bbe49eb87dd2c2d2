"""Small environments of the fields that reinforcement learning is applied to, each with its optimum beside it."""
