"""What runs in the sandbox's child processes: standard library only, `python -I -S`, each file a script or a part of one."""
