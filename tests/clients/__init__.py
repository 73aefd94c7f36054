"""Real clients of other services against the real service on a socket."""
