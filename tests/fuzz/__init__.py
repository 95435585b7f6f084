"""Mutated files of every kind that vconv reads, through its API and its command line: ``python -m tests.fuzz --help``.

A module for each kind of file makes mutation number N of a seed and says what is done with it. What must not happen: an
error that is none of ``vconv.errors``, a command that calls it a fault in vconv, more than 20 s or 1 GB, a crash of the
process, or a result with samples that are not finite or all the same.
"""
