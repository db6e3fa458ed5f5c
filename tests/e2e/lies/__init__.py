"""The lying server: true in everything but one answer, so that the suite can prove that a scenario notices a lie.

Not here: faults inside the product (tests/e2e/mutants). `server` forwards everything to a true gateway, `lies` lists
the lies by what they change, `test_lies` runs the scenarios that must notice them.

    python -m pytest tests/e2e/lies -m soak -s     # every lie; prints the table scenario x lie
"""
