"""Evidence from machines that the build machine is not: kits that ask for it, signed files that bring it."""
