"""Distribution of the plugin. Nothing of the package is imported here: Scipion reads this file where its requirements are not yet installed."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def lines(path):
    return [
        line for line in (HERE / path).read_text().splitlines() if line and not line.startswith("#")
    ]


setup(
    name="scipion-em-deepemhancer",
    version=re.search(
        r'__version__ = "([^"]+)"', (HERE / "deepemhancer_plugin/__init__.py").read_text()
    ).group(1),
    description="Enhancement of cryo-EM maps: a Scipion plugin and the deepemhancer command",
    long_description=(HERE / "README.rst").read_text(),
    long_description_content_type="text/x-rst",
    license="GPL-3.0-or-later",
    python_requires=">=3.11",
    packages=find_packages(include=["deepemhancer_plugin*"]),
    package_data={
        "deepemhancer_plugin": [
            "icon.png",
            "protocols.conf",
            "requirements-inference.txt",
            "templates/*.template",
            "tests/conda_standin.sh",
            "core/weights/models/*",
            "core/localres/models/*",
        ]
    },
    install_requires=[
        "scipion-pyworkflow",
        "scipion-em",
        "numpy",
        "scipy",
        "mrcfile",
        "matplotlib",
    ],
    extras_require={"inference": lines("deepemhancer_plugin/requirements-inference.txt")},
    entry_points={
        "pyworkflow.plugin": ["deepemhancer_plugin = deepemhancer_plugin"],
        "console_scripts": [
            "deepemhancer = deepemhancer_plugin.core.commands.main:main",
            "deepemhancer-relion = deepemhancer_plugin.core.commands.relion:entry",
        ],
    },
)
