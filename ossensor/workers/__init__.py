"""The processes that the supervisor forks: thin shells over the pure core."""
