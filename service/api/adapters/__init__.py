"""The protocols of other services, for clients that shall work unchanged (docs/works-with.md)."""
