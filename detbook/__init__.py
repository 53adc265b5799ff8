"Object detection as a book you can import."
from importlib.metadata import version as _version
__version__ = _version('detbook')
