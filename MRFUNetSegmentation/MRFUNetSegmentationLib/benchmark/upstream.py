"""The networks' published code, from checkouts that the user has; nothing of it is shipped here."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from ..errors import InputError


def load_nitorch(checkout: Path) -> type[nn.Module]:
    """Return nitorch's class `SegMRFNet`.

    nitorch compiles an extension for resampling, which this network never calls, and its packages
    import far more than the network needs. So the parent packages are empty stand-ins, and so is
    the extension.

    Args:
        checkout: of github.com/balbasty/nitorch at revision c3676d0 (February 2021), the generation
            of the paper; later ones compute something else.

    Raises:
        InputError: if it is no such checkout, or lacks one of nitorch's requirements.
    """
    root = checkout / "nitorch"
    extension = _stand_in("nitorch._C")
    extension.spatial = _stand_in("nitorch._C.spatial", BoundType=None, InterpolationType=None)
    stand_ins = [
        _stand_in("nitorch", __path__=[str(root)]),
        _stand_in("nitorch.nn", __path__=[str(root / "nn")]),
        extension,
        extension.spatial,
    ]
    with _imports_from(checkout, stand_ins):
        return _attribute(checkout, "nitorch.nn.modules._segmentation", "SegMRFNet")


def load_probabilistic_unet(checkout: Path) -> type[nn.Module]:
    """Return the class `ProbabilisticUnet` of the published PyTorch port.

    Args:
        checkout: of github.com/stefanknegt/Probabilistic-Unet-Pytorch.

    Raises:
        InputError: if it is no such checkout, or lacks one of its requirements.
    """
    with _imports_from(checkout, []):
        return _attribute(checkout, "probabilistic_unet", "ProbabilisticUnet")


def _stand_in(name: str, **attributes: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


@contextmanager
def _imports_from(checkout: Path, stand_ins: list[ModuleType]) -> Iterator[None]:
    """Import from the checkout, and leave neither its path nor its modules behind.

    Their names ("utils", "unet") are too common to stay.
    """
    before = set(sys.modules)
    sys.path.insert(0, str(checkout))
    sys.modules.update({module.__name__: module for module in stand_ins})
    try:
        yield
    finally:
        sys.path.remove(str(checkout))
        for module in stand_ins:
            del sys.modules[module.__name__]
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and checkout.resolve() in Path(file).resolve().parents:
                del sys.modules[name]


def _attribute(checkout: Path, module: str, name: str) -> type[nn.Module]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{checkout}: {name} cannot be imported ({error}). Give the folder of a checkout of "
            "the published code, and install what it requires."
        ) from error
