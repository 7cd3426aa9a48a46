"""Why an order, or a packet that an order would have sent, is refused: a closed list, counted and reported. Pure."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """Reasons are words of the wire and of metrics: one that exists is never renamed."""

    # of an order, when it arrives
    OLDER_VERSION = "older_version"  # of all orders of that message; newer ones are in force
    MALFORMED = "malformed"
    DUPLICATE = "duplicate"  # its id was there already, in the same message
    EXPIRED = "expired"
    TOO_MANY = "too_many"
    # of an order, or of one connection that a wider order concerns
    OWN_FLOW = "own_flow"  # the sensor's connection to its vSensor
    PROTECTED = "protected"  # OSSENSOR_ANTIGENA_PROTECT
    # of one connection
    CREDENTIAL_ENDPOINT = "credential_endpoint"
    NAME_SERVER = "name_server"
    UNKNOWN_OPENER = "unknown_opener"  # a quarantine of one direction, and nobody saw who opened it
    NOT_ONE_HOST = "not_one_host"  # multicast, broadcast, no address: the RFCs forbid an answer
    # of one packet
    RATE = "rate"
    UNSENT = "unsent"  # the kernel did not take it: there is no route to that end, or no room
