"""Capture engines behind one small interface, and the kernel filters in front of them."""
