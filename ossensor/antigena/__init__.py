"""Connections that the vSensor orders ended: what an order is, whom it concerns, and the packets that end it."""
