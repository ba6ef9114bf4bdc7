#!/bin/bash
# Stands in for conda in the tests of the installation. Environments are `python -m venv` folders below
# $STANDIN_ENVS, made from $STANDIN_PYTHON. They see the packages in $STANDIN_PACKAGES, so that pip finds
# its requirements met and downloads nothing. It proves what Scipion does with conda, not what conda's
# solver does. Like a new Miniconda, it refuses Anaconda's own channels.
set -e
case "$1 $2" in
    "shell.bash hook")
        echo 'conda() {
            if [ "$1" = activate ]; then [ -e "$STANDIN_ENVS/$2/bin/activate" ] && . "$STANDIN_ENVS/$2/bin/activate"
            else command conda "$@"; fi
        }'
        ;;
    "create -y" | "env remove")
        name=$4
        if [ "$1" = create ] && [[ " $* " != *" --override-channels -c conda-forge "* ]]; then
            echo "CondaToSNonInteractiveError: Terms of Service have not been accepted" >&2
            exit 1
        fi
        rm -rf "${STANDIN_ENVS:?}/${name:?}"
        [ "$1" = env ] && exit
        "$STANDIN_PYTHON" -m venv --without-pip "$STANDIN_ENVS/$name"
        echo "$STANDIN_PACKAGES" >"$(echo "$STANDIN_ENVS/$name"/lib/python3*/site-packages)/standin.pth"
        ;;
    *)
        echo "conda stand-in: cannot $*" >&2
        exit 1
        ;;
esac
