"""Translation between the families, one packet at a time and without state (RFC 7915)."""
