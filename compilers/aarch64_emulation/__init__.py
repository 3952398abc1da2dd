"""Running artifacts of another processor on this machine: QEMU's user-mode emulation over a prepared root."""
