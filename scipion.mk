# The Scipion side of the Makefile, which includes this file: .venv with Scipion and the plugin, and
# its tests. RELION's plugin is optional; with it, its protocol is tested too.
SCIPION_PACKAGES = scipion-app==3.8.3 scipion-em==3.11.1 scipion-pyworkflow==3.11.7 \
	scipion-em-relion==5.0.2 pytest

.venv/installed: setup.py scipion.mk
	$(call check_python,$(PYTHON),8,12,Scipion)
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet $(SCIPION_PACKAGES)
	.venv/bin/python -m pip install --quiet --editable .
	ln -sf ../../scripts/scipion3 .venv/bin/scipion3
	.venv/bin/scipion3 protocols | grep ProtDeepEMhancer >/dev/null
	touch $@

# Xmipp's plugin, beside what is in .venv: without the compiled Xmipp, Scipion cannot load it, and
# would say so in every log.
.venv-xmipp/installed: .venv/installed
	$(PYTHON) -m venv .venv-xmipp
	.venv/bin/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		>"$$(.venv-xmipp/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/scipion.pth"
	.venv-xmipp/bin/python -m pip install --quiet scipion-em-xmipp==29.0.1 six
	touch $@

# The window and queue tests need what `.ci/scipion` installs (as root); without it they are skipped
# and say so.
.PHONY: test-scipion test-xmipp
test-scipion: install test-xmipp
	bash -c '. scripts/scipion_env.sh && cd .scipion && python -m pytest -q -rs -p no:cacheprovider --ignore ../deepemhancer_plugin/tests/test_xmipp.py ../deepemhancer_plugin/tests'
	.venv/bin/scipion3 tests deepemhancer_plugin.tests.test_protocol.TestForm

test-xmipp: install .venv-xmipp/installed
	bash -c '. scripts/scipion_env.sh && cd .scipion && ../.venv-xmipp/bin/python -m pytest -q -rs -p no:cacheprovider ../deepemhancer_plugin/tests/test_xmipp.py'
