"""Facts about this machine and the memory a process uses."""
