"""The engines that are measured: Rung's artifacts and the alternatives to them, one file each."""
