"""The actors of what the edges do."""

LOCAL = "local"
"""The actor until access control is on."""
