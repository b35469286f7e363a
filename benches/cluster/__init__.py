"""Parts of benches/lab.py: a cluster of slow machines on one, and what is built and measured on it."""
