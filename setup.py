"Pass the metadata of settings.ini on to setuptools: settings.ini is the one place where it is written."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

here = Path(__file__).parent
config = ConfigParser(delimiters=['='], interpolation=None)
config.read(here/'settings.ini', encoding='utf-8')
meta = config['DEFAULT']
lines = lambda key: [o.strip() for o in meta.get(key, '').splitlines() if o.strip()]
extras = {key.removesuffix('_requirements'): meta[key].split() for key in meta if key.endswith('_requirements')}
STATUS = {'2':'2 - Pre-Alpha', '3':'3 - Alpha', '4':'4 - Beta', '5':'5 - Production/Stable'}

setup(
    version=meta['version'], description=meta['description'], keywords=meta['keywords'].split(),
    author=meta['author'], author_email=meta['author_email'], license_expression=meta['license'],
    python_requires=f">={meta['min_python']}", install_requires=meta['requirements'].split(), extras_require=extras,
    packages=find_packages(include=['detbook', 'detbook.*']), package_data={'detbook': ['py.typed', 'toy_detector.safetensors']},
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    classifiers=[f"Development Status :: {STATUS[meta['status']]}", 'Intended Audience :: Science/Research', 'Intended Audience :: Education',
        'Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Image Recognition'],
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': ['detbook=detbook._modidx:d']})
