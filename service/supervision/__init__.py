"""`semicap serve`: the broker, the worker and the API as children of one small process."""
