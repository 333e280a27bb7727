"""Faults for apps on real processes, brokers and networks, and the verdict on what they lost or disordered."""
