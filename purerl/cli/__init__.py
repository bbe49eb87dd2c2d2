"""The command line. jax is imported only when a command needs it."""
