"""Captioning of files without a server."""
