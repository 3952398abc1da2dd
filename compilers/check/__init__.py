"""How any session is checked: the probe, parity bounds and speed."""
