"""A whole small internet on one machine: network namespaces, IPv6-only origin servers, impaired wires, and the real daemon.

Used by the tests, the benchmarks and `kracauer demo`. `topology` builds it; the other modules are its parts.
"""
