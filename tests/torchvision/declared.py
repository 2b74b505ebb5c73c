"""Lets torchvision be imported where its compiled operators cannot be loaded, as beside a torch of another build: a classifier needs
none of them, but torchvision says how some behave, and so torch must know their names.

The interpreter of .build/torchvision imports this as it starts; torch is imported by whoever imports torchvision, and by nobody
else, as tests look at who has it.
"""

import sys
from importlib.abc import MetaPathFinder
from typing import Any

SAYS = "torchvision._meta_registrations"
OPERATORS = ("nms", "qnms")


class Declaring(MetaPathFinder):
    """Finds nothing: it only hears when torchvision is about to say how its operators behave."""

    library: Any = None

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == SAYS and not sys.modules["torchvision.extension"]._has_ops():
            import torch

            self.library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for operator in OPERATORS:
                self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, Declaring())
