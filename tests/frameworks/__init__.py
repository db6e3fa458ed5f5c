"""Official AG-UI servers of agent frameworks, each in a virtual environment of its own, behind narthex."""
