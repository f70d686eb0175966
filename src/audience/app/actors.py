"""Who acts."""

LOCAL = "local"
"""The actor until access control is on."""
