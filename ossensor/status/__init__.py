"""What a running sensor says of itself, to people and to programs, over a local socket."""
