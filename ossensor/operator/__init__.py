"""The operator's end of Antigena: `ossensor antigena`."""
