"""Tests of the plugin: `scipion3 tests deepemhancer_plugin.tests` or pytest with SCIPION_DOMAIN=pwem."""
