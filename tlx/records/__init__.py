"""Records on disk: the directory of a run, its log, and the records of studies, read back and compared."""
