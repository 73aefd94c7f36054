"""Jobs, against a real broker."""
