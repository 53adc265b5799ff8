"Object detection as a book you can import."
from importlib.metadata import PackageNotFoundError as _NotInstalled, version as _version
try: __version__ = _version('detbook')
except _NotInstalled: __version__ = '0.2.0'     # these sources, not installed; a test compares it with settings.ini
