"""Adds the configurations to the package; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ncgn_jax*"]), "ncgn_jax.configs"],
    package_dir={"ncgn_jax.configs": "configs"},
)
