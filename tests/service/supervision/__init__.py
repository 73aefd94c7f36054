"""The supervisor and what it keeps running."""
