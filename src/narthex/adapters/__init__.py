"""One technology, one file. An adapter translates its library's errors at its edge."""
