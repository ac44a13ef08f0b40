"""Feed randomly damaged input to everything that parses foreign data: `make fuzz`."""
