"""Play many schedules of three replicas on a virtual clock, with faults by chance: `make simulate`."""
