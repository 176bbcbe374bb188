"""Records on disk: the directory of a run, its log, and the records of a study, with functions that read and compare
them."""
