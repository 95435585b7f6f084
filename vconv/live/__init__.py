"""Live conversion: blocks of samples in, blocks of converted samples out, a fixed fraction of a second later."""

from vconv.live.engine import LiveConverter
from vconv.live.statistics import Enrolment

__all__ = ["Enrolment", "LiveConverter"]
