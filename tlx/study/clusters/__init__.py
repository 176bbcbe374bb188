"""Run cells on the machines of a cluster: as tasks of Ray, or as jobs of Slurm.

A task is a command of tlx, the one by which the local runner starts a worker, restricted to one group of cells. So the
claims, groups and records are those of the local runner, and the directory must be on a disk that all machines share.
"""
