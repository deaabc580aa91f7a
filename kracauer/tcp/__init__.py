"""The TCP that Kracauer speaks itself: cookies, options, held bytes, deltas. Sans-I/O."""
