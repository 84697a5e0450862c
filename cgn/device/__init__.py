"""Devices: processes, precision, memory, transfer, graphs."""
