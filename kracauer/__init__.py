"""Kracauer: IPv4 clients reach IPv6-only servers by hostname; TLS untouched, the visitor's address kept."""

__version__ = "0.1.0"
