"""What is stored, told on as it comes, by a process of its own: PCAP-over-IP for tools, VXLAN for detectors."""
