"""Tests of the plugin, for `scipion3 tests deepemhancer_plugin.tests` or pytest.

Pytest needs the environment variables of scripts/scipion_env.sh.
"""
