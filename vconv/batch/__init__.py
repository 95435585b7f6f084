"""Many files at once: what is written where, in how many processes, and one bad file that does not stop the others.

Jobs are found while others are worked on, so a corpus of any size takes the memory of its largest folder.
"""

from vconv.batch.conversion import Conversion
from vconv.batch.jobs import Job, Made, Make, Tally, Watcher
from vconv.batch.plan import Plan
from vconv.batch.running import QUEUED, Folders, attempt, run

__all__ = ["QUEUED", "Conversion", "Folders", "Job", "Made", "Make", "Plan", "Tally", "Watcher", "attempt", "run"]
