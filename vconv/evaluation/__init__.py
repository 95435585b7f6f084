"""Measuring conversions with judges that had no part in training: what `vconv evaluate` does."""

from vconv.evaluation.run import Evaluation, Options, evaluate

__all__ = ["Evaluation", "Options", "evaluate"]
