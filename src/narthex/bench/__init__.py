"""The load generator and the baseline: the measurements of `narthex bench` and their tools.

Not here: the command line (`cli/bench.py`). Parts: `load/` runs in a process of its own and does nothing but
open sockets, send and count; `servers` starts the measured servers or attaches to them; `rounds` alternates targets and
takes medians; `report` and `baseline` show and compare. Rules: the figure is CPU time of the *server's*
processes per operation, read from their CPU clocks around the operations, so that a slow generator or a busy
machine widens the wall time and not the figure; everything is on loopback and bounded in count and time.
"""
