"""seqdni: train RNNs by truncated BPTT with synthetic gradients at the chunk boundaries."""

import lazy_loader

__version__ = "0.1.0.dev0"
# The public names are listed in __init__.pyi. Each is imported when it is first used, so that the
# command line can show its help without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
# `from seqdni import *` must not hide the cross_entropy of torch.
__all__.remove("cross_entropy")  # pyright: ignore[reportUnsupportedDunderAll]
