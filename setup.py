"""Distribution of the plugin.

It imports nothing of the package: its requirements are not installed yet when pip reads this file.

Who installs what:
    pip install scipion-em-deepemhancer                the plugin, in Scipion's environment
    pip install "scipion-em-deepemhancer[inference]"   the command line; TensorFlow beside it
    pip install "scipion-em-deepemhancer[scipion]"     the plugin with Scipion's libraries
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
URL = "https://github.com/scipion-em/scipion-em-deepemhancer"


def read_version():
    """Return the version that the package states."""
    text = (HERE / "deepemhancer_plugin/version.py").read_text()
    return re.search(r'__version__ = "([^"]+)"', text).group(1)


def read_description():
    """Return the README with links that also work outside of the checkout, as on PyPI."""
    text = (HERE / "README.rst").read_text(encoding="utf-8")
    raw = URL.replace("github.com", "raw.githubusercontent.com")
    text = re.sub(r"(image:: )(docs/)", rf"\1{raw}/HEAD/\2", text)
    return re.sub(r"(<)((docs|deepemhancer_plugin)/)", rf"\1{URL}/blob/HEAD/\2", text)


def read_requirements(path):
    """Return the lines of a requirements file, without its comments."""
    lines = (HERE / path).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="scipion-em-deepemhancer",
    version=read_version(),
    description="Enhancement of cryo-EM maps: a Scipion plugin and the deepemhancer command",
    long_description=read_description(),
    long_description_content_type="text/x-rst",
    author="The scipion-em-deepemhancer developers",
    url=URL,
    project_urls={
        "Documentation": f"{URL}/tree/HEAD/docs",
        "Source": URL,
        "Changes": f"{URL}/blob/HEAD/CHANGES.txt",
        "Issues": f"{URL}/issues",
    },
    license="GPL-3.0-or-later",
    keywords="cryo-EM DeepEMhancer DeepRes RELION scipion post-processing local-resolution",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *[f"Programming Language :: Python :: 3.{minor}" for minor in range(8, 14)],
        "Topic :: Scientific/Engineering :: Bio-Informatics",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
    python_requires=">=3.8",  # of Scipion's side; the core needs 3.11 and says so when it starts
    packages=find_packages(include=["deepemhancer_plugin*"]),
    package_data={
        "deepemhancer_plugin": [
            "icon.png",
            "isolate.sh",
            "protocols.conf",
            "requirements-inference.txt",
            "templates/*.template",
            "tests/conda_standin.sh",
            "core/py.typed",
            "core/training/recipes/*",
            "core/weights/models/*",
            "core/localres/models/*",
        ]
    },
    # What Scipion's side and the core both import; Scipion brings its own versions of all four.
    install_requires=["numpy", "scipy", "mrcfile", "matplotlib"],
    extras_require={
        "inference": read_requirements("deepemhancer_plugin/requirements-inference.txt"),
        "scipion": ["scipion-pyworkflow>=3.11.2", "scipion-em>=3.11.1"],
        "xmipp": ["scipion-em-xmipp>=29", "six"],  # it imports six and does not say so
    },
    entry_points={
        "pyworkflow.plugin": ["deepemhancer_plugin = deepemhancer_plugin"],
        "console_scripts": [
            "deepemhancer = deepemhancer_plugin.launcher:main",
            "deepemhancer-relion = deepemhancer_plugin.launcher:run_relion_hook",
        ],
    },
)
