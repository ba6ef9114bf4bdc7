# Settings of Scipion for this checkout, for `.` in a shell. All files lie below .scipion.
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
export SCIPION_HOME=$root/.scipion SCIPION_USER_DATA=$root/.scipion/data
export SCIPION_LOCAL_CONFIG=$SCIPION_HOME/config/scipion.conf
export SCIPION_DOMAIN=pwem SCIPION_NOTIFY=False SCIPION_TEST_NOSYNC=True
export DEEPEMHANCER_ENV_ACTIVATION=${DEEPEMHANCER_ENV_ACTIVATION:-source $root/.venv-inference/bin/activate}
export PATH=$root/.venv/bin:$PATH
mkdir -p "$SCIPION_HOME/config" "$SCIPION_USER_DATA"
if [ ! -e "$SCIPION_LOCAL_CONFIG" ]; then
    (cd "$SCIPION_HOME" && "$root/.venv/bin/python" -m scipion config --unattended --overwrite >/dev/null)
fi
