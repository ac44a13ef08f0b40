"""Random damage to what strangers send: `make fuzz`."""
