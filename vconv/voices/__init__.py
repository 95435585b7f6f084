"""The space of voices of a model: the population of its training speakers, sampling, mixing, verification."""
