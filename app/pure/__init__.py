"""Pure translation, values in, values out: no network, disk, clock, randomness, settings or log is seen from here."""
