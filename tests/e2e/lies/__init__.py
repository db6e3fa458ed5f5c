"""The lying server: correct except for one answer, so that the suite can prove that a scenario notices the lie.

Not here: faults inside the product (tests/e2e/mutants). `server` forwards everything to a real gateway, `lies` lists
the lies by the changed answer, `test_lies` runs the scenarios that must notice them.

    python -m pytest tests/e2e/lies -m soak -s     # every lie; prints the table scenario x lie
"""
