"""ossensor: a packet-forwarding network sensor and the collector it ships to."""

__version__ = "0.1.0"
