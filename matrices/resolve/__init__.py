"""Resolution: which artifact of a release a host may serve, with the reason for every refusal."""
