# For `.` in any shell, before an inference environment is activated or run: what modules, Scipion or
# the home folder set for other programs stays out. The activation may set all of it anew.
unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1
# The frameworks bring their own libraries, all but the NVIDIA driver's; RELION needs what was set.
export RELION_LD_LIBRARY_PATH="${RELION_LD_LIBRARY_PATH-${LD_LIBRARY_PATH-}}"
driver=
IFS=:
for folder in ${LD_LIBRARY_PATH-}; do
    if [ -e "$folder/libcuda.so.1" ]; then driver="$driver${driver:+:}$folder"; fi
done
unset IFS LD_LIBRARY_PATH folder
if [ -n "$driver" ]; then export LD_LIBRARY_PATH="$driver"; fi
unset driver
