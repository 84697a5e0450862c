"""Networks of CGNs."""
