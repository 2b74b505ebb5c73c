"""A device's examples, from a short spec such as `digits:1/10` or `npz:/srv/train.npz`.

Internal: what is public is in `zowarmup`.
"""

from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.spec import divide, load

__all__ = ["DataError", "Dataset", "divide", "load"]
