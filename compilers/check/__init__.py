"""How any session is checked: the probe, parity bounds, speed, and the segments of a call."""
