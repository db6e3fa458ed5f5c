"""A mutation run: random faults in the modules that matter most, and the share of them that the tests notice.

Not here: the seeded faults of the end-to-end suite (tests/e2e/mutants). Rules: a mutant is one small change of one
expression or statement; the seed and the count decide which ones are drawn, so that a run can be repeated; only
in-process tests count, since a started program does not load the mutant; a survivor that changes no behaviour is
listed with its reason in `equivalent.toml` and has been read by two people.

    python -m tests.mutants --seed 7 --count 300          # map the tests first when there is no map, then run
    python -m tests.mutants --map                         # only renew the map of which test executes which line
    python -m tests.mutants --map tests/app/hub           # add or renew the tests of some paths
    python -m tests.mutants --seed 7 --count 300 --list   # show the mutants that the seed draws
    python -m tests.mutants --only app/hub/hub.py --count 20
    python -m tests.mutants --seed 7 --count 300 --results FILE   # append each verdict; goes on where the file stops
"""
