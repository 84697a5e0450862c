"""Training of CGNs at both scales."""
