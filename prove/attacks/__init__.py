"""What strangers and tenants can do to a process and to its other tenants, measured: `make attack`."""
