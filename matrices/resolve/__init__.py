"""Resolution: which artifact of a release a host may serve, and why not a better one."""
