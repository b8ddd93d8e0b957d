"""Proximal Policy Optimization as pure JAX functions: a whole training run is one XLA program.

`__init__.pyi` lists the public names. Each is imported on first use, because JAX takes a second to load and
`purejaxppo --help` does not need it.
"""

import lazy_loader

from purejaxppo._util.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
