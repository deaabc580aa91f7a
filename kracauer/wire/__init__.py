"""Bytes to header values and back: one RFC a module, no state, no policy."""
