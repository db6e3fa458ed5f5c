"""The load generator and the baseline: what `narthex bench` measures, and with what.

Not here: the command line (`cli/bench.py`). Rooms: `load/` runs in a process of its own and does nothing but
open sockets, send and count; `servers` starts or attaches what is measured; `rounds` alternates targets and
takes medians; `report` and `baseline` show and compare. Rules: the figure is CPU time of the *server's*
processes per operation, read from their CPU clocks around the operations, so that a slow generator or a busy
machine widens the wall time and not the figure; everything is on loopback and bounded in count and time.
"""
