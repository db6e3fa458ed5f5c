"""The Store port in SQL, written once and free of I/O: engines drive these operations (`stores/sqlite.py`, …)."""
